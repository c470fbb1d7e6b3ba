"""T5's pre-training objective, with errors of one line."""

import functools
from collections.abc import Mapping

import seqio
import tensorflow as tf
from t5.data import preprocessors

from switch_tf.data import spans
from switch_tf.data.spans import MEAN_SPAN_LENGTH, NOISE_DENSITY, NoiseDensity, SpanLength
from switch_tf.errors import UserError
from switch_tf.rules import configurable

# As many as T5 takes of a document in an epoch, and as many as it joins.
_CHUNK_TOKENS = 65_536
_JOINED_DOCUMENTS = 128


@configurable("span_corruption")
def settings(
    noise_density: NoiseDensity = NOISE_DENSITY,
    mean_noise_span_length: SpanLength = MEAN_SPAN_LENGTH,
) -> tuple[float, float]:
    """What gin sets of span corruption.

    Args:
      noise_density: share of the tokens that is masked.
      mean_noise_span_length: of a masked span, in tokens.
    """
    return noise_density, mean_noise_span_length


def span_corruption(
    dataset: tf.data.Dataset,
    sequence_length: Mapping[str, int] | None,
    output_features: Mapping[str, seqio.Feature],
    noise_density: float | None = None,
    mean_noise_span_length: float | None = None,
) -> tf.data.Dataset:
    """T5's span corruption: documents are joined, cut to equal lengths, and spans masked.

    Examples are those of T5's `span_corruption`, but for what is garbage there or would be cut off:
    the one token that may be left of joined documents is masked, in place of a sentinel for
    nothing; and pieces are shorter where T5's would not fit, as under
    `random_spans_noise_mask.random_roll`, which gin sets by T5's own name.

    Args:
      dataset: examples with `targets`, the tokens of a document.
      sequence_length: feature -> tokens, end of sequence included.
      output_features: feature -> vocabulary.
      noise_density, mean_noise_span_length: None: those of `settings`.

    Returns:
      Examples with `inputs` and `targets`, without the end of sequence.

    Raises:
      UserError: no lengths, numbers out of range, spans without text between them, room in the
        targets for fewer tokens than the inputs give up, or fewer sentinels than spans.
    """
    lengths = sequence_length or {}
    for feature in ("inputs", "targets"):
        if not lengths.get(feature):
            raise UserError(
                f"TASK_FEATURE_LENGTHS has no '{feature}', which span corruption cuts text to: "
                "set it to {'inputs': 128, 'targets': 36}, for example"
            )
    density, span_length = settings()
    density = density if noise_density is None else noise_density
    span_length = span_length if mean_noise_span_length is None else mean_noise_span_length
    numbers = spans.Spans(density, span_length, spans.random_roll())
    sentinels = spans.num_sentinels(output_features["targets"].vocabulary)
    piece = numbers.check({name: lengths[name] for name in ("inputs", "targets")}, sentinels)
    dataset = preprocessors.select_random_chunk(
        dataset, output_features, max_length=_CHUNK_TOKENS, feature_key="targets"
    )
    dataset = preprocessors.reduce_concat_tokens(
        dataset, feature_key="targets", batch_size=_JOINED_DOCUMENTS
    )
    dataset = preprocessors.split_tokens(
        dataset, max_tokens_per_segment=piece, feature_key="targets"
    )
    return preprocessors.denoise(
        dataset,
        output_features,
        noise_density=density,
        noise_mask_fn=functools.partial(_mask, mean_noise_span_length=span_length),
        inputs_fn=preprocessors.noise_span_to_unique_sentinel,
        targets_fn=_targets,
    )


def _mask(length, noise_density, seeds, mean_noise_span_length):
    """T5's mask; of a single token, of which T5 masks nothing, that."""
    mask = preprocessors.random_spans_noise_mask(
        length, noise_density, seeds, mean_noise_span_length
    )
    return mask | (length < 2)


def _targets(tokens, noise_mask, vocabulary, seeds):
    """T5's targets; of a single token, which is masked, with the sentinel that T5 has for others.

    A roll that begins with masked tokens has them in front of the first sentinel, as T5's.
    """
    found = preprocessors.nonnoise_span_to_unique_sentinel(tokens, noise_mask, vocabulary, seeds)
    sentinel = tf.cast(preprocessors.sentinel_id(vocabulary), tokens.dtype)[tf.newaxis]
    return tf.concat([sentinel[: tf.cast(tf.size(tokens) < 2, tf.int32)], found], axis=0)

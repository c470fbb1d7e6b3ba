"""T5's pre-training objective, with one-line errors."""

import functools
from collections.abc import Mapping

import seqio
import tensorflow as tf
from t5.data import preprocessors

from switch_tf.data import spans
from switch_tf.data.spans import MEAN_SPAN_LENGTH, NOISE_DENSITY, NoiseDensity, SpanLength
from switch_tf.errors import UserError
from switch_tf.rules import configurable

# T5's limits: tokens of a document that are kept together, and documents joined.
_CHUNK_TOKENS = 65_536
_JOINED_DOCUMENTS = 128


@configurable("span_corruption")
def settings(
    noise_density: NoiseDensity = NOISE_DENSITY,
    mean_noise_span_length: SpanLength = MEAN_SPAN_LENGTH,
    random_chunk: bool = False,
) -> tuple[float, float, bool]:
    """The settings of span corruption in gin.

    Args:
      noise_density: share of the tokens that are masked. A higher one gives more targets per input
        but leaves less context. T5 found little difference from 10% to 25%, and 50% worse: keep
        0.15.
      mean_noise_span_length: mean length of a masked span, in tokens. Longer spans give shorter
        targets and so faster steps. T5 found little difference up to 5, and 10 slightly worse: keep
        3.
      random_chunk: whether only one chunk of 65,536 tokens, drawn anew in each epoch, is read of a
        longer document, as in T5: no document then dominates an epoch, but most of a long one is
        not seen in it. False reads all of each document.
    """
    return noise_density, mean_noise_span_length, random_chunk


def span_corruption(
    dataset: tf.data.Dataset,
    sequence_length: Mapping[str, int] | None,
    output_features: Mapping[str, seqio.Feature],
    noise_density: float | None = None,
    mean_noise_span_length: float | None = None,
) -> tf.data.Dataset:
    """T5's span corruption: documents are joined and cut to equal lengths, and spans are masked.

    Examples equal those of T5's `span_corruption`, except where T5 would give garbage or truncate,
    and except that longer documents than 65,536 tokens are read as a whole (see `settings`).
    If a single token is left of joined documents, it is masked, where T5 would add a sentinel for
    nothing. Pieces are shorter where T5's would not fit, for example with
    `random_spans_noise_mask.random_roll`, which gin sets under T5's name.

    Args:
      dataset: a dataset of examples whose `targets` are the tokens of a document.
      sequence_length: feature -> length in tokens, including the end of sequence.
      output_features: feature -> its `seqio.Feature`, with the vocabulary.
      noise_density, mean_noise_span_length: see `settings`, which gives the values for None.

    Returns:
      Examples with `inputs` and `targets`, without the end of sequence.

    Raises:
      UserError: there are no lengths, a value is out of range, spans have no text between them, the
        targets are too short for the masked tokens, or there are fewer sentinels than spans.
    """
    lengths = _lengths(sequence_length)
    density, span_length, takes_random_chunk = settings()
    density = density if noise_density is None else noise_density
    span_length = span_length if mean_noise_span_length is None else mean_noise_span_length
    numbers = spans.Spans(density, span_length, spans.random_roll())
    sentinels = spans.num_sentinels(output_features["targets"].vocabulary)
    piece = numbers.check(lengths, sentinels)
    if not takes_random_chunk:
        dataset = _chunks(dataset)
    # Of all chunks, it takes the whole. It draws seeds, so that the noise is T5's, too.
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


def _lengths(sequence_length: Mapping[str, int] | None) -> dict[str, int]:
    found = {}
    for feature in ("inputs", "targets"):
        found[feature] = (sequence_length or {}).get(feature)
        if not found[feature]:
            raise UserError(
                f"TASK_FEATURE_LENGTHS has no '{feature}', the length to which span corruption "
                "cuts text: set it to {'inputs': 128, 'targets': 36}, for example"
            )
    return found


def _chunks(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Documents' `targets`, cut into chunks as long as T5 takes one of."""

    def cut(example):
        tokens = example["targets"]
        starts = tf.data.Dataset.range(0, tf.size(tokens, tf.int64), _CHUNK_TOKENS)
        return starts.map(lambda start: {"targets": tokens[start : start + _CHUNK_TOKENS]})

    return dataset.flat_map(cut)


def _mask(length, noise_density, seeds, mean_noise_span_length):
    """T5's mask, except that a single token, which T5 would not mask, is masked."""
    mask = preprocessors.random_spans_noise_mask(
        length, noise_density, seeds, mean_noise_span_length
    )
    return mask | (length < 2)


def _targets(tokens, noise_mask, vocabulary, seeds):
    """T5's targets; a single token, which is masked, gets a sentinel like any other.

    If a rolled mask begins with masked tokens, they precede the first sentinel, as in T5.
    """
    found = preprocessors.nonnoise_span_to_unique_sentinel(tokens, noise_mask, vocabulary, seeds)
    sentinel = tf.cast(preprocessors.sentinel_id(vocabulary), tokens.dtype)[tf.newaxis]
    return tf.concat([sentinel[: tf.cast(tf.size(tokens) < 2, tf.int32)], found], axis=0)

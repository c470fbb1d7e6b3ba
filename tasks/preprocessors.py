"""T5's pre-training objective, with errors of one line."""

from collections.abc import Mapping

import seqio
import tensorflow as tf
from t5.data import preprocessors

from switch_tf.errors import UserError

# T5's: 15% of the tokens, in spans of three on average (Raffel et al., 2020, Sec. 3.3).
NOISE_DENSITY = 0.15
MEAN_SPAN_LENGTH = 3.0


def span_corruption(
    dataset: tf.data.Dataset,
    sequence_length: Mapping[str, int] | None,
    output_features: Mapping[str, seqio.Feature],
) -> tf.data.Dataset:
    """T5's span corruption: documents are joined, cut to equal lengths, and spans masked.

    Args:
      dataset: examples with `targets`, the tokens of a document.
      sequence_length: feature -> tokens, end of sequence included.
      output_features: feature -> vocabulary.

    Returns:
      Examples with `inputs` and `targets`, without the end of sequence.

    Raises:
      UserError: no lengths, or room in the targets for fewer tokens than the inputs give up.
    """
    lengths = sequence_length or {}
    for feature in ("inputs", "targets"):
        if not lengths.get(feature):
            raise UserError(
                f"TASK_FEATURE_LENGTHS has no '{feature}', which span corruption cuts text to: "
                "set it to {'inputs': 128, 'targets': 36}, for example"
            )
    _, needed = preprocessors.random_spans_helper(
        inputs_length=lengths["inputs"],
        noise_density=NOISE_DENSITY,
        mean_noise_span_length=MEAN_SPAN_LENGTH,
        extra_tokens_per_span_inputs=1,
        extra_tokens_per_span_targets=1,
    )
    if lengths["targets"] < needed:
        raise UserError(
            f"TASK_FEATURE_LENGTHS['targets']={lengths['targets']} is too short: span corruption "
            f"of {lengths['inputs']} inputs has {needed} targets"
        )
    return preprocessors.span_corruption(
        dataset,
        sequence_length,
        output_features,
        mean_noise_span_length=MEAN_SPAN_LENGTH,
        noise_density=NOISE_DENSITY,
    )

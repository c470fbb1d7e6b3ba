"""The preprocessors shared by all supervised tasks."""

import seqio

from switch_tf.tasks.vocabulary.t5 import T5_OUTPUT_FEATURES


def add(
    name, source, to_text, metric_fns, postprocess_fn=None, output_features=T5_OUTPUT_FEATURES
) -> None:
    """Registers a task whose examples `to_text` converts to `inputs` and `targets`."""
    seqio.TaskRegistry.add(
        name,
        source=source,
        preprocessors=[
            to_text,
            seqio.preprocessors.tokenize,
            seqio.CacheDatasetPlaceholder(),
            seqio.preprocessors.append_eos_after_trim,
        ],
        postprocess_fn=postprocess_fn,
        output_features=output_features,
        metric_fns=metric_fns,
    )

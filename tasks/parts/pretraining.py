"""The preprocessors shared by all pre-training tasks."""

import functools
from collections.abc import Mapping

import seqio
from t5.data import preprocessors as t5_preprocessors

from switch_tf.tasks.parts import preprocessors
from switch_tf.tasks.vocabulary.t5 import T5_OUTPUT_FEATURES


def add(
    name: str,
    source: seqio.DataSource,
    output_features: Mapping[str, seqio.Feature] = T5_OUTPUT_FEATURES,
) -> None:
    """Registers T5's span corruption of a source's `text`; caches tokens and redraws spans."""
    seqio.TaskRegistry.add(
        name,
        source=source,
        preprocessors=[
            functools.partial(t5_preprocessors.rekey, key_map={"inputs": None, "targets": "text"}),
            seqio.preprocessors.tokenize,
            seqio.CacheDatasetPlaceholder(),
            preprocessors.span_corruption,
            seqio.preprocessors.append_eos_after_trim,
        ],
        output_features=dict(output_features),
        metric_fns=[],
    )

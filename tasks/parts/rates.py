"""Mixing rates: tasks are mixed in proportion to their tokens, as in the paper.

A rate is how often an *example* of a task is drawn. If it is the number of its examples, each token
of a mixture occurs equally often, whatever the lengths. T5 also mixes GLUE and SuperGLUE this way.
"""

import functools

import seqio

from switch_tf import config
from switch_tf.errors import UserError

SPLIT = "train"
# If a task is not cached, this many examples of its source are preprocessed to estimate how many
# result. More are more exact but delay the start.
COUNTED_EXAMPLES = 1_000


def examples(task: seqio.Task) -> float:
    """Number of examples in a task's train split, as a mixing rate; 0 without one.

    For `seqio.MixtureRegistry.add`. Counts examples after the preprocessors before the cache, which
    may turn an example of the source into several or none. The count comes from the statistics of
    the task's cache, if there is one. Otherwise it is the number of examples in the source times
    how many its first ones become, which is measured when the mixture is first used, and kept.

    Raises:
      UserError: the source does not report its number of examples.
    """
    if SPLIT not in task.splits:
        return 0.0
    if task.cache_dir:
        return float(task.get_cached_stats(SPLIT)["examples"])
    count = task.source.num_input_examples(SPLIT)
    if count is None:
        raise UserError(
            f"the source of task '{task.name}' does not report its number of examples: cache the "
            "task with scripts/cache_tasks.sh, or give the mixture a number as its rate"
        )
    macros = tuple(repr(config.macro(name, None)) for name in ("DATA_DIR", "BAD_DATA"))
    vocabularies = tuple(
        getattr(feature.vocabulary, "sentencepiece_model_file", repr(feature.vocabulary))
        for feature in task.output_features.values()
    )
    return _estimate(task, count, macros, vocabularies)


@functools.lru_cache(maxsize=1024)
def _estimate(task: seqio.Task, count: int, macros: tuple, vocabularies: tuple) -> float:
    """Estimates the number of examples, cached by what it depends on, including gin's settings."""
    if not count:
        return 0.0
    sources = task.source.get_dataset(SPLIT, shuffle=False).take(COUNTED_EXAMPLES)
    found = task.preprocess_precache(sources)
    if not task.supports_caching:
        found = task.preprocess_postcache(found, None)
    return count * sum(1 for _ in found) / min(count, COUNTED_EXAMPLES)

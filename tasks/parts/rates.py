"""Rates of mixtures: tasks blended in proportion to the tokens in each, as in the paper.

A rate is how often an *example* of a task is drawn. At the number of its examples, each token of a
mixture comes as often as any other, whatever the lengths: so T5 mixes GLUE and SuperGLUE, too.
"""

import functools

import seqio

from switch_tf import config
from switch_tf.errors import UserError

SPLIT = "train"
# Of so many examples of a source it is counted what becomes of them, where the task is not cached.
COUNTED_EXAMPLES = 1_000


def examples(task: seqio.Task) -> float:
    """Number of examples that a task gives of its train split; 0 without one.

    For `seqio.MixtureRegistry.add`, as a rate. After the preprocessors in front of the cache, by
    which an example of the source may become several, or none. From the statistics of the task's
    cache, where there is one; else the number of examples in the source times how many its first
    ones become, which is found when the mixture is first used, and kept.

    Raises:
      UserError: the source does not tell how many examples it has.
    """
    if SPLIT not in task.splits:
        return 0.0
    if task.cache_dir:
        return float(task.get_cached_stats(SPLIT)["examples"])
    count = task.source.num_input_examples(SPLIT)
    if count is None:
        raise UserError(
            f"the source of task '{task.name}' does not tell how many examples it has: cache the "
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
    """Also by what it depends on outside the task: settings of gin."""
    if not count:
        return 0.0
    sources = task.source.get_dataset(SPLIT, shuffle=False).take(COUNTED_EXAMPLES)
    found = task.preprocess_precache(sources)
    if not task.supports_caching:
        found = task.preprocess_postcache(found, None)
    return count * sum(1 for _ in found) / min(count, COUNTED_EXAMPLES)

"""Rates of mixtures: tasks blended in proportion to the tokens in each, as in the paper."""

import functools

import seqio

from switch_tf import config

SPLIT = "train"
# Of so many examples the tokens are counted, where the task is not cached.
COUNTED_EXAMPLES = 1_000


def tokens(task: seqio.Task) -> float:
    """Number of tokens, of inputs and targets, in the train split of a task; 0 without one.

    For `seqio.MixtureRegistry.add`, as a rate. From the statistics of the task's cache, where there
    is one; else the number of examples in the source times the mean over the first of them, which
    is found when the mixture is first used, and kept.
    """
    if SPLIT not in task.splits:
        return 0.0
    if task.cache_dir:
        stats = task.get_cached_stats(SPLIT)
        return float(sum(stats[f"{name}_tokens"] for name in task.output_features))
    macros = tuple(repr(config.macro(name, None)) for name in ("DATA_DIR", "BAD_DATA"))
    vocabularies = tuple(
        getattr(feature.vocabulary, "sentencepiece_model_file", repr(feature.vocabulary))
        for feature in task.output_features.values()
    )
    return _estimate(task, task.source.num_input_examples(SPLIT), macros, vocabularies)


@functools.lru_cache(maxsize=1024)
def _estimate(task: seqio.Task, count: int, macros: tuple, vocabularies: tuple) -> float:
    """Also by what it depends on outside the task: settings of gin."""
    sources = task.source.get_dataset(SPLIT, shuffle=False).take(COUNTED_EXAMPLES)
    # One example of the source may become several, or none.
    examples = task.preprocess_precache(sources).as_numpy_iterator()
    names = list(task.output_features)
    found = sum(len(example[name]) for example in examples for name in names if name in example)
    return count * found / min(count, COUNTED_EXAMPLES)

"""A deterministic ROUGE metric for summaries."""

from collections.abc import Sequence

import numpy as np
from rouge_score import rouge_scorer

# As in T5: `rougeLsum` is ROUGE-L by sentence, `rougeL` would treat a summary as one sentence.
_KEYS = ("rouge1", "rouge2", "rougeLsum")


def rouge(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """ROUGE-1, ROUGE-2 and ROUGE-Lsum, in percent.

    As in T5, except that T5 reports the median of means over random samples of the examples, drawn
    anew at each call. This is the mean over all examples, which those means approximate.

    Args:
      targets: reference summaries, with sentences separated by line breaks or " . ", as in T5.
      predictions: equally many predicted summaries.
    """
    scorer = rouge_scorer.RougeScorer(_KEYS)
    found = [
        scorer.score(target=_by_lines(target), prediction=_by_lines(prediction))
        for target, prediction in zip(targets, predictions, strict=True)
    ]
    return {key: float(100 * np.mean([scores[key].fmeasure for scores in found])) for key in _KEYS}


def _by_lines(summary: str) -> str:
    """Puts each sentence on a line for ROUGE-Lsum: a vocabulary may have no line break."""
    return summary.replace(" . ", " .\n")

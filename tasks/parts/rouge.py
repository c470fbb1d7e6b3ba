"""ROUGE of summaries, the same for the same predictions."""

from collections.abc import Sequence

import numpy as np
from rouge_score import rouge_scorer

# T5's. `rougeLsum` is ROUGE-L by sentences, `rougeL` would be of a summary as one.
_KEYS = ("rouge1", "rouge2", "rougeLsum")


def rouge(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """ROUGE-1, ROUGE-2 and ROUGE-Lsum, in percent.

    T5's, but for one thing: T5 reports the middle of means over random samples of the examples,
    drawn anew in each call. This is the mean over the examples, to which those come near.

    Args:
      targets: summaries; their sentences are parted by line breaks or by " . ", as in T5.
      predictions: as many.
    """
    scorer = rouge_scorer.RougeScorer(_KEYS)
    found = [
        scorer.score(target=_by_lines(target), prediction=_by_lines(prediction))
        for target, prediction in zip(targets, predictions, strict=True)
    ]
    return {key: float(100 * np.mean([scores[key].fmeasure for scores in found])) for key in _KEYS}


def _by_lines(summary: str) -> str:
    """A sentence a line, for ROUGE-Lsum: a vocabulary may have no line break."""
    return summary.replace(" . ", " .\n")

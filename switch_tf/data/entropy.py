"""Unigram entropy: the loss of a model that knows only how frequent each token is."""

import numpy as np

from switch_tf.data.reading import TaskSplit, elements
from switch_tf.errors import UserError


def unigram_entropy(
    dataset, vocab_size: int, num_batches: int = 64, what: TaskSplit | str = "data"
) -> float:
    """The entropy of the distribution of target tokens, in nats per token.

    H = -sum_v p_v ln p_v, where p_v is the share of token v among the targets that carry loss: the
    loss of a model that knows only token frequencies. Estimated from N tokens, it is too low by
    about (distinct tokens - 1) / 2N (Miller-Madow).

    Args:
      dataset: the result of `train_dataset` or `eval_dataset`.
      vocab_size: exclusive upper bound of token ids.
      num_batches: maximum number of batches to count. More lower the bias but take longer.
      what: what is read, for errors; see `elements`.

    Raises:
      UserError: there is no target token, or one beyond the vocabulary, or the data cannot be
        read.
    """
    counts = np.zeros(vocab_size, np.int64)
    for batch in elements(dataset.take(num_batches), what):
        targets = batch["decoder_target_tokens"][batch["decoder_loss_weights"] > 0]
        if targets.size and targets.max() >= vocab_size:
            raise UserError(
                f"{what}: token {targets.max()}, but the vocabulary has only {vocab_size}: if the "
                "data are cached, set VOCABULARY_PATH to the one of the cache"
            )
        counts += np.bincount(targets, minlength=vocab_size)
    if not counts.any():
        raise UserError("no target tokens to count: the dataset is empty")
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())

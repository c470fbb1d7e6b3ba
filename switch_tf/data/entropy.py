"""What a model gets that knows how frequent each token is, and nothing else."""

import numpy as np

from switch_tf.data.features import user_errors
from switch_tf.errors import UserError


def unigram_entropy(dataset, vocab_size: int, num_batches: int = 64) -> float:
    """Entropy of the distribution of target tokens, in nats a token.

    H = -sum_v p_v ln p_v with p_v the share of token v among the targets that carry loss: what a
    model gets that knows how frequent each token is and nothing else. Of N tokens it comes out
    about (distinct tokens - 1) / 2N too low (Miller-Madow).

    Args:
      dataset: of `train_dataset` or `eval_dataset`.
      vocab_size: token ids are below it.
      num_batches: how many batches to count at most.

    Raises:
      UserError: no target token.
    """
    counts = np.zeros(vocab_size, np.int64)
    with user_errors("data"):
        for batch in dataset.take(num_batches).as_numpy_iterator():
            targets = batch["decoder_target_tokens"][batch["decoder_loss_weights"] > 0]
            counts += np.bincount(targets, minlength=vocab_size)
    if not counts.any():
        raise UserError("no target token to count: the dataset is empty")
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())

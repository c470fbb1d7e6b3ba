import math

import numpy as np
import pytest
import tensorflow as tf

from switch_tf.data.entropy import unigram_entropy
from switch_tf.errors import UserError


def test_unigram_entropy_counts_targets_with_weight_only():
    batch = {
        "decoder_target_tokens": np.array([[2, 2, 3, 4, 0, 0]], np.int32),
        "decoder_loss_weights": np.array([[1, 1, 1, 1, 0, 0]], np.int32),
    }
    dataset = tf.data.Dataset.from_tensors(batch).repeat()
    assert unigram_entropy(dataset, 8, num_batches=3) == pytest.approx(1.5 * math.log(2))
    with pytest.raises(UserError, match="empty"):
        unigram_entropy(dataset.take(0), 8)

"""The training objective: cross-entropy of the next token, with T5's z-loss."""

import tensorflow as tf


def cross_entropy(logits_BLV, targets_BL, weights_BL, z_loss_coef: float = 0.0):
    """Sums over tokens; the caller divides.

    Args:
      logits_BLV: float32 [batch, length, vocab].
      targets_BL: int32 [batch, length].
      weights_BL: [batch, length], 0 for padding.
      z_loss_coef: weight of log(Z)², which keeps the logits near zero (Mesh-TensorFlow: 1e-4).

    Returns:
      Sum of the cross-entropy in nats, sum of the weighted z-loss, number of correct tokens, sum
      of the weights; float32 scalars.
    """
    weights_BL = tf.cast(weights_BL, tf.float32)
    entropy_BL = tf.nn.sparse_softmax_cross_entropy_with_logits(targets_BL, logits_BLV)
    z_loss = tf.zeros([])
    if z_loss_coef:
        log_z_BL = tf.reduce_logsumexp(logits_BLV, axis=-1)
        z_loss = z_loss_coef * tf.reduce_sum(tf.square(log_z_BL) * weights_BL)
    guess_BL = tf.argmax(logits_BLV, axis=-1, output_type=tf.int32)
    correct_BL = tf.cast(guess_BL == targets_BL, tf.float32)
    sums_B3 = tf.stack([entropy_BL * weights_BL, correct_BL * weights_BL, weights_BL], axis=-1)
    entropy, correct, tokens = tf.unstack(tf.reduce_sum(sums_B3, axis=[0, 1]))
    return entropy, z_loss, correct, tokens

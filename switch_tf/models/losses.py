"""The training objective: cross-entropy of the next token, with T5's z-loss."""

import tensorflow as tf

from switch_tf import mesh as mesh_lib
from switch_tf.layers.base import lay_out

# T5X's names. The first gives all tokens the same weight, the second all sequences, so that in a
# mixture a task with long targets does not drown out one with short labels.
LOSS_NORMALIZING_FACTORS = ("NUM_REAL_TARGET_TOKENS", "AVERAGE_PER_SEQUENCE")

# Name scope of the gradients, as TensorFlow would call it: profiles are read by these names.
_BACKWARD = "gradient_tape/loss/"


def per_sequence(weights_BL, segments_BL=None):
    """Weights that sum to one over each sequence: 1 / (its number of tokens), 0 for padding.

    Args:
      weights_BL: [batch, length], 1 for tokens, 0 for padding.
      segments_BL: [batch, length], the sequence in its row that a token belongs to; None if each
        row is one sequence.

    Returns:
      float32 [batch, length].
    """
    weights_BL = tf.cast(weights_BL, tf.float32)
    if segments_BL is None:
        tokens_BL = tf.reduce_sum(weights_BL, axis=1, keepdims=True)
    else:
        same_BLM = tf.cast(segments_BL[:, :, None] == segments_BL[:, None, :], tf.float32)
        tokens_BL = tf.einsum("blm,bm->bl", same_BLM, weights_BL)
    return weights_BL / tf.maximum(tokens_BL, 1.0)


def cross_entropy(
    logits_BLV,
    targets_BL,
    weights_BL,
    z_loss_coef: float = 0.0,
    loss_weights_BL=None,
    normalizer=None,
    entropy_weight: float = 1.0,
):
    """Cross-entropy and z-loss, summed over tokens, and the loss, their weighted mean.

    Args:
      logits_BLV: float32 [batch, length, vocab].
      targets_BL: int32 [batch, length].
      weights_BL: [batch, length], 0 for padding.
      z_loss_coef: weight of log(Z)², which keeps the logits near zero (Mesh-TensorFlow: 1e-4).
      loss_weights_BL: [batch, length], weights of tokens in the loss; None uses `weights_BL`.
      normalizer: divisor of the loss; None uses the sum of `loss_weights_BL`, at least 1.
      entropy_weight: weight of the cross-entropy, but not of the z-loss, in the loss.

    Returns:
      Sum of the cross-entropy in nats, sum of the weighted z-loss, number of correct tokens, sum
      of `weights_BL`, and the loss: the mean of weighted cross-entropy plus z-loss, weighted by
      `loss_weights_BL`. All are float32 scalars.
    """
    weights_BL = tf.cast(weights_BL, tf.float32)
    if loss_weights_BL is None:
        loss_weights_BL = weights_BL
    entropy_BL, log_z_BL, correct_BL = token_losses(logits_BLV, targets_BL)
    z_loss_BL = tf.zeros_like(entropy_BL)
    if z_loss_coef:
        z_loss_BL = z_loss_coef * tf.square(log_z_BL)
    counted = [value_BL * weights_BL for value_BL in (entropy_BL, z_loss_BL, correct_BL)]
    weighed_BL = entropy_BL if entropy_weight == 1.0 else entropy_weight * entropy_BL
    weighed = [(weighed_BL + z_loss_BL) * loss_weights_BL, loss_weights_BL]
    columns_BL6 = tf.stack([*counted, weights_BL, *weighed], axis=-1)
    entropy, z_loss, correct, tokens, loss, weight = tf.unstack(
        tf.reduce_sum(columns_BL6, axis=[0, 1])
    )
    if normalizer is None:
        normalizer = tf.maximum(weight, 1.0)
    return entropy, z_loss, correct, tokens, loss / normalizer


def soft_cross_entropy(logits_BLV, teacher_BLV, temperature: float = 1.0):
    """Cross-entropy of each token with a teacher's probabilities in place of the target.

    T^2 * -sum_v softmax(teacher / T)_v * log softmax(logits / T)_v (Hinton et al., 2015). If the
    mesh shards the vocabulary, no tensor with a vocabulary axis crosses devices.

    Args:
      logits_BLV: float32 [batch, length, vocab].
      teacher_BLV: float32 [batch, length, vocab]; gets no gradient.
      temperature: T.

    Returns:
      float32 [batch, length], in nats.
    """
    axes = ("batch", "length", "vocab")
    scaled_BLV = lay_out(logits_BLV, axes) / temperature
    teacher_BLV = lay_out(tf.stop_gradient(teacher_BLV), axes) / temperature
    q_BLV = tf.exp(teacher_BLV - tf.expand_dims(_log_z(teacher_BLV), -1))
    own_BL = tf.reduce_sum(q_BLV * scaled_BLV, axis=-1)
    return temperature**2 * (_log_z(scaled_BLV) - own_BL)


def _log_z(logits_BLV):
    """The log-partition function, [batch, length], by sums and maxima over the vocabulary."""
    largest_BL = tf.stop_gradient(tf.reduce_max(logits_BLV, axis=-1))
    z_BL = tf.reduce_sum(tf.exp(logits_BLV - tf.expand_dims(largest_BL, -1)), axis=-1)
    return tf.math.log(z_BL) + largest_BL


def token_losses(logits_BLV, targets_BL):
    """Losses of each token.

    If the mesh shards the vocabulary, no tensor with a vocabulary axis crosses devices.

    Args:
      logits_BLV: float32 [batch, length, vocab].
      targets_BL: int32 [batch, length].

    Returns:
      Cross-entropy in nats, log-partition function, and 1 where the likeliest token is the target;
      each float32 [batch, length].
    """
    mesh = mesh_lib.current()
    spread = mesh is not None and mesh.ways("vocab") > 1
    return (_of_spread_logits if spread else _of_whole_logits)(logits_BLV, targets_BL)


def _of_whole_logits(logits_BLV, targets_BL):
    log_z_BL, own_BL = _log_z_and_own(logits_BLV, targets_BL)
    guess_BL = tf.argmax(logits_BLV, axis=-1, output_type=tf.int32)
    correct_BL = tf.cast(guess_BL == targets_BL, tf.float32)
    return log_z_BL - own_BL, log_z_BL, correct_BL


@tf.custom_gradient
def _log_z_and_own(logits_BLV, targets_BL):
    """The log-partition function and the target's logit, each [batch, length].

    Logits are the largest tensor of a step. TensorFlow's cross-entropy and log-sum-exp, one after
    the other, pass over it three times as long as this, which keeps the probabilities.
    """
    p_BLV = tf.nn.softmax(logits_BLV)
    # The largest probability is 1 / sum(exp(logits - largest)), and at least 1 / vocab.
    log_z_BL = tf.reduce_max(logits_BLV, axis=-1) - tf.math.log(tf.reduce_max(p_BLV, axis=-1))

    def gradient(d_log_z_BL, d_own_BL):
        with tf.name_scope(_BACKWARD):
            own_BLV = tf.one_hot(targets_BL, logits_BLV.shape[-1]) * d_own_BL[..., None]
            return p_BLV * d_log_z_BL[..., None] + own_BLV, None

    return (log_z_BL, tf.gather(logits_BLV, targets_BL, batch_dims=2)), gradient


def _of_spread_logits(logits_BLV, targets_BL):
    """Uses sums and maxima over the vocabulary, as fused operations would gather the logits."""
    axes, vocab = ("batch", "length", "vocab"), logits_BLV.shape[-1]
    logits_BLV = lay_out(logits_BLV, axes)
    target_BLV = lay_out(tf.one_hot(targets_BL, vocab), axes)
    largest_BL = tf.stop_gradient(tf.reduce_max(logits_BLV, axis=-1))
    largest_BL1 = tf.expand_dims(largest_BL, -1)
    log_z_BL = _log_z(logits_BLV)
    own_BL = tf.reduce_sum(logits_BLV * target_BLV, axis=-1)
    # Among equal logits the first counts, as in argmax.
    before_BLV = tf.cast(tf.range(vocab) < tf.expand_dims(targets_BL, -1), tf.float32)
    rivals_BLV = tf.cast(logits_BLV == largest_BL1, tf.float32) * lay_out(before_BLV, axes)
    first_BL = tf.reduce_sum(rivals_BLV, axis=-1) == 0.0
    correct_BL = tf.cast((own_BL == largest_BL) & first_BL, tf.float32)
    return log_z_BL - own_BL, log_z_BL, correct_BL

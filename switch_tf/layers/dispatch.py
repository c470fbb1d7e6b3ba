"""Moves tokens into the experts' buffers and back; knows nothing of experts.

Both moves are gathers: a sort of the tokens by expert says which token fills a slot, the routing's
positions say which slot holds a token. Each gather is the other's gradient, so neither direction
scatters, and the cost does not grow with the group size as a one-hot product's does.

| tensor | shape | on a mesh |
|---|---|---|
| dispatched | [G, E, C, M] | groups over the batch dimension; the layer relays it out by experts |
| combined | [G, S, M] | groups over the batch dimension |
"""

import gin
import tensorflow as tf


@tf.custom_gradient
def _take(x_GNM, source_GP, back_GN):
    """y[g, p] = x[g, source[g, p]], 0 where source is N; `back` is the inverse, P where none."""

    def gradient(dy_GPM):
        return _gather_or_zero(dy_GPM, back_GN), None, None

    return _gather_or_zero(x_GNM, source_GP), gradient


def _gather_or_zero(x_GNM, index_GP):
    size = x_GNM.shape[1]
    y_GPM = tf.gather(x_GNM, tf.minimum(index_GP, size - 1), batch_dims=1)
    return tf.where(tf.expand_dims(index_GP, -1) < size, y_GPM, tf.zeros([], x_GNM.dtype))


@gin.configurable
class GatherDispatcher:
    """Dispatch and combine by gathers."""

    def dispatch(self, x_GSM, routing):
        """[groups, experts, expert_capacity, d_model]; empty slots are 0.

        Args:
          x_GSM: [groups, group_size, d_model].
          routing: `Routing`.
        """
        groups, _, d_model = x_GSM.shape
        slot_GS, token_GP = self._slots_tokens(routing)
        x_GPM = _take(x_GSM, token_GP, slot_GS)
        return tf.reshape(x_GPM, [groups, routing.num_experts, routing.capacity, d_model])

    def combine(self, y_GECM, routing):
        """[groups, group_size, d_model]: each token's output times its gate; dropped tokens are 0.

        Args:
          y_GECM: [groups, experts, expert_capacity, d_model].
          routing: `Routing`.
        """
        groups, _, _, d_model = y_GECM.shape
        slot_GS, token_GP = self._slots_tokens(routing)
        y_GPM = tf.reshape(y_GECM, [groups, -1, d_model])
        # The gate is cast back before it meets the experts' output (selective precision).
        gate_GS1 = tf.expand_dims(tf.cast(routing.gate_GS, y_GPM.dtype), -1)
        return _take(y_GPM, slot_GS, token_GP) * gate_GS1

    def _slots_tokens(self, routing):
        """Slot of each token (E·C where dropped) and token of each slot (S where empty)."""
        experts, capacity = routing.num_experts, routing.capacity
        group_size = routing.kept_GS.shape[1]
        slot_GS = routing.expert_index_GS * capacity + routing.position_GS
        slot_GS = tf.where(routing.kept_GS, slot_GS, experts * capacity)
        # Dropped tokens sort behind every expert's.
        key_GS = tf.where(routing.kept_GS, routing.expert_index_GS, experts)
        order_GS = tf.argsort(key_GS, axis=1, stable=True)
        count_GE = tf.reduce_sum(tf.one_hot(key_GS, experts, dtype=tf.int32), axis=1)
        first_GE = tf.cumsum(count_GE, axis=1, exclusive=True)
        place_C = tf.range(capacity)
        rank_GEC = tf.expand_dims(first_GE, -1) + place_C
        filled_GEC = place_C < tf.expand_dims(count_GE, -1)
        flat = [rank_GEC.shape[0], experts * capacity]
        rank_GP = tf.minimum(tf.reshape(rank_GEC, flat), group_size - 1)
        token_GP = tf.gather(order_GS, rank_GP, batch_dims=1)
        return slot_GS, tf.where(tf.reshape(filled_GEC, flat), token_GP, group_size)

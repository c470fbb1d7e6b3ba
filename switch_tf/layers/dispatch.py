"""Moves tokens into the experts' buffers and back; knows nothing of experts.

`GatherDispatcher`'s moves are gathers: a sort of the tokens by expert says which token fills a
slot, the routing's positions say which slot holds a token. Each gather is the other's gradient, so
neither direction scatters, and the cost does not grow with the group size as that of
`EinsumDispatcher`'s one-hot products does. The two give the same to rounding.

| tensor | shape | on a mesh |
|---|---|---|
| dispatched | [G, E, C, M] | groups over the batch dimension; the layer relays it out by experts |
| combined | [G, S, M] | groups over the batch dimension |
"""

import gin
import tensorflow as tf

from switch_tf.layers.base import sizes


@tf.custom_gradient
def _take(x_GNM, source_GP, back_GN):
    """y[g, p] = x[g, source[g, p]], 0 where source is N; `back` is the inverse, P where none."""

    def gradient(dy_GPM):
        return _gather_or_zero(dy_GPM, back_GN), None, None

    return _gather_or_zero(x_GNM, source_GP), gradient


def _flat(x_GKS):
    """[groups, K · group_size]; a reshape would gather the groups of a mesh in its gradient."""
    return tf.concat(tf.unstack(x_GKS, axis=1), axis=1)


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
        groups, _, d_model = sizes(x_GSM)
        slot_GN, choice_GP = self._slots_choices(routing)
        choices = routing.kept_GKS.shape[1]
        x_GNM = x_GSM if choices == 1 else tf.tile(x_GSM, [1, choices, 1])
        x_GPM = _take(x_GNM, choice_GP, slot_GN)
        return tf.reshape(x_GPM, [groups, routing.num_experts, routing.capacity, d_model])

    def combine(self, y_GECM, routing):
        """[groups, group_size, d_model]: outputs times gates, summed; dropped tokens are 0.

        Args:
          y_GECM: [groups, experts, expert_capacity, d_model].
          routing: `Routing`.
        """
        groups, experts, capacity, d_model = sizes(y_GECM)
        slot_GN, choice_GP = self._slots_choices(routing)
        y_GPM = tf.reshape(y_GECM, [groups, experts * capacity, d_model])
        y_GNM = _take(y_GPM, slot_GN, choice_GP)
        # The gate is cast back before it meets the experts' output (selective precision).
        gate_GN = _flat(tf.cast(routing.gate_GKS, y_GPM.dtype))
        y_GNM *= tf.expand_dims(gate_GN, -1)
        choices = routing.kept_GKS.shape[1]
        return y_GNM if choices == 1 else tf.add_n(tf.split(y_GNM, choices, axis=1))

    def _slots_choices(self, routing):
        """Slot of each choice (E·C where dropped) and choice of each slot (N where empty).

        The choices of a group are counted choice by choice, N = K·S: the order in which buffers
        are filled, so that a stable sort by expert puts each at its position.
        """
        experts, capacity = routing.num_experts, routing.capacity
        groups, choices, group_size = sizes(routing.kept_GKS)
        last = choices * group_size - 1
        expert_GN, kept_GN = _flat(routing.expert_index_GKS), _flat(routing.kept_GKS)
        slot_GN = expert_GN * capacity + _flat(routing.position_GKS)
        slot_GN = tf.where(kept_GN, slot_GN, experts * capacity)
        # Dropped choices sort behind every expert's.
        key_GN = tf.where(kept_GN, expert_GN, experts)
        order_GN = tf.argsort(key_GN, axis=1, stable=True)
        count_GE = tf.reduce_sum(tf.one_hot(key_GN, experts, dtype=tf.int32), axis=1)
        first_GE = tf.cumsum(count_GE, axis=1, exclusive=True)
        place_C = tf.range(capacity)
        rank_GEC = tf.expand_dims(first_GE, -1) + place_C
        filled_GEC = place_C < tf.expand_dims(count_GE, -1)
        flat_GP = [groups, experts * capacity]
        rank_GP = tf.minimum(tf.reshape(rank_GEC, flat_GP), last)
        choice_GP = tf.gather(order_GN, rank_GP, batch_dims=1)
        return slot_GN, tf.where(tf.reshape(filled_GEC, flat_GP), choice_GP, last + 1)


@gin.configurable
class EinsumDispatcher:
    """Dispatch and combine by products with one-hot tensors, as Mesh-TensorFlow.

    The [groups, group_size, experts, expert_capacity] tensors cost S times the memory of a gather,
    and their products S · C · E · d_model operations a group; accelerators that are slow at
    gathers may still prefer them.
    """

    def dispatch(self, x_GSM, routing):
        """As `GatherDispatcher.dispatch`."""
        kept_GKS = tf.cast(routing.kept_GKS, x_GSM.dtype)
        return tf.einsum("GSEC,GSM->GECM", self._slots_GSEC(routing, kept_GKS), x_GSM)

    def combine(self, y_GECM, routing):
        """As `GatherDispatcher.combine`."""
        gate_GKS = tf.cast(routing.gate_GKS, y_GECM.dtype)
        return tf.einsum("GSEC,GECM->GSM", self._slots_GSEC(routing, gate_GKS), y_GECM)

    def _slots_GSEC(self, routing, weight_GKS):
        """A weight, 0 for a choice not kept, at the slot of each choice; 0 elsewhere."""
        total_GSEC, dtype = 0.0, weight_GKS.dtype
        for k in range(weight_GKS.shape[1]):
            experts_GSE = tf.one_hot(
                routing.expert_index_GKS[:, k], routing.num_experts, dtype=dtype
            ) * tf.expand_dims(weight_GKS[:, k], -1)
            places_GSC = tf.one_hot(routing.position_GKS[:, k], routing.capacity, dtype=dtype)
            total_GSEC += tf.einsum("GSE,GSC->GSEC", experts_GSE, places_GSC)
        return total_GSEC


def default_dispatcher():
    """The dispatcher for the devices at hand: by gathers, but on TPU by one-hot products.

    On CPU gathers are faster at every size (docs/switch_layer.md). One-hot products are the paper's
    choice for TPUs; that was not measured here.
    """
    return EinsumDispatcher() if tf.config.list_physical_devices("TPU") else GatherDispatcher()

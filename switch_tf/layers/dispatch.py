"""Moves tokens into the experts' buffers and back; knows nothing of experts.

`GatherDispatcher`'s moves are gathers: a sort of the tokens by expert says which token fills a
slot, the routing's positions say which slot holds a token. Each gather is the other's gradient, so
neither direction scatters, and the cost does not grow with the group size as that of
`EinsumDispatcher`'s one-hot products does. The two give the same to rounding.

| tensor | shape | on a mesh |
|---|---|---|
| dispatched | [G, E, C, M] | groups over the batch dimension; the layer relays it out by experts |
| combined | [G, S, M] | groups over the batch dimension |

P = E · C slots of a group; a choice is numbered k · S + s, as the buffers are filled.
"""

import tensorflow as tf

from switch_tf.layers.base import exact_dtype, sizes
from switch_tf.rules import configurable


@tf.custom_gradient
def _to_slots(x_GSM, slot_GKS, choice_GP):
    """[groups, slots, d_model]: the token of each slot's choice, 0 where the slot is empty."""

    def gradient(dy_GPM):
        # Choice by choice: where experts pick tokens, all K = E at once would be E rows a token.
        return _sum_by_choice(slot_GKS, dy_GPM), None, None

    return _tokens(x_GSM, choice_GP, slot_GKS.shape[1]), gradient


@tf.custom_gradient
def _to_tokens(y_GPM, gate_GKS, slot_GKS, choice_GP):
    """[groups, group_size, d_model]: the slots of a token's choices times their gates, summed."""

    def gradient(dy_GSM):
        gate_GP1 = _rows(tf.expand_dims(_flat(gate_GKS), -1), choice_GP)
        dy_GPM = _tokens(dy_GSM, choice_GP, slot_GKS.shape[1]) * gate_GP1
        dgates = [
            tf.reduce_sum(dy_GSM * _rows(y_GPM, slot_GS), axis=-1)
            for slot_GS in tf.unstack(slot_GKS, axis=1)
        ]
        return dy_GPM, tf.stack(dgates, axis=1), None, None

    return _sum_by_choice(slot_GKS, y_GPM, gate_GKS), gradient


def _sum_by_choice(slot_GKS, y_GPM, gate_GKS=None):
    """Sum over a token's choices of what is in their slots, times their gates."""
    slots = tf.unstack(slot_GKS, axis=1)
    # A sum of several choices is rounded once, as that of a product with one-hots is.
    dtype = exact_dtype(y_GPM.dtype.name, len(slots) > 1)
    total_GSM = None
    for k, slot_GS in enumerate(slots):
        term_GSM = tf.cast(_rows(y_GPM, slot_GS), dtype)
        if gate_GKS is not None:
            term_GSM *= tf.expand_dims(tf.cast(gate_GKS[:, k], dtype), -1)
        total_GSM = term_GSM if total_GSM is None else total_GSM + term_GSM
    return tf.cast(total_GSM, y_GPM.dtype)


def _tokens(x_GSM, choice_GP, choices):
    """The token of each choice, 0 where the choice is K · S."""
    size = sizes(x_GSM)[1]
    there_GP1 = tf.expand_dims(choice_GP < choices * size, -1)
    x_GPM = tf.gather(x_GSM, choice_GP % size, batch_dims=1)
    return tf.where(there_GP1, x_GPM, tf.zeros([], x_GSM.dtype))


def _rows(x_GNM, index_GP):
    """x[g, index[g, p]], 0 where the index is N."""
    size = sizes(x_GNM)[1]
    y_GPM = tf.gather(x_GNM, tf.minimum(index_GP, size - 1), batch_dims=1)
    return tf.where(tf.expand_dims(index_GP, -1) < size, y_GPM, tf.zeros([], x_GNM.dtype))


def _flat(x_GKS):
    """[groups, K · group_size]; a reshape would gather the groups of a mesh in its gradient."""
    return tf.concat(tf.unstack(x_GKS, axis=1), axis=1)


@configurable
class GatherDispatcher:
    """Dispatch and combine by gathers."""

    def dispatch(self, x_GSM, routing):
        """[groups, experts, expert_capacity, d_model]; empty slots are 0.

        Args:
          x_GSM: [groups, group_size, d_model].
          routing: `Routing`.
        """
        groups, _, d_model = sizes(x_GSM)
        x_GPM = _to_slots(x_GSM, *self._slots_choices(routing))
        return tf.reshape(x_GPM, [groups, routing.num_experts, routing.capacity, d_model])

    def combine(self, y_GECM, routing):
        """[groups, group_size, d_model]: outputs times gates, summed; dropped tokens are 0.

        Args:
          y_GECM: [groups, experts, expert_capacity, d_model].
          routing: `Routing`.
        """
        groups, experts, capacity, d_model = sizes(y_GECM)
        y_GPM = tf.reshape(y_GECM, [groups, experts * capacity, d_model])
        # The gate is cast back before it meets the experts' output (selective precision).
        gate_GKS = tf.cast(routing.gate_GKS, y_GPM.dtype)
        return _to_tokens(y_GPM, gate_GKS, *self._slots_choices(routing))

    def _slots_choices(self, routing):
        """Slot of each choice (P where dropped) and choice of each slot (K · S where empty).

        The choices of a group are counted choice by choice, the order in which buffers are filled,
        so that a stable sort by expert puts each at its position.
        """
        experts, capacity = routing.num_experts, routing.capacity
        groups, choices, group_size = sizes(routing.kept_GKS)
        slot_GKS = routing.expert_index_GKS * capacity + routing.position_GKS
        slot_GKS = tf.where(routing.kept_GKS, slot_GKS, experts * capacity)
        # Dropped choices sort behind every expert's.
        key_GKS = tf.where(routing.kept_GKS, routing.expert_index_GKS, experts)
        order_GN = tf.argsort(_flat(key_GKS), axis=1, stable=True)
        count_GE = 0
        for key_GS in tf.unstack(key_GKS, axis=1):
            count_GE += tf.reduce_sum(tf.one_hot(key_GS, experts, dtype=tf.int32), axis=1)
        first_GE = tf.cumsum(count_GE, axis=1, exclusive=True)
        place_C = tf.range(capacity)
        rank_GEC = tf.expand_dims(first_GE, -1) + place_C
        filled_GEC = place_C < tf.expand_dims(count_GE, -1)
        flat_GP = [groups, experts * capacity]
        rank_GP = tf.minimum(tf.reshape(rank_GEC, flat_GP), choices * group_size - 1)
        choice_GP = tf.gather(order_GN, rank_GP, batch_dims=1)
        filled_GP = tf.reshape(filled_GEC, flat_GP)
        return slot_GKS, tf.where(filled_GP, choice_GP, choices * group_size)


@configurable
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

    On CPU gathers are faster at every size that was measured (docs/switch_layer.md). One-hot
    products are the paper's choice for TPUs; that was not measured here.
    """
    return EinsumDispatcher() if tf.config.list_physical_devices("TPU") else GatherDispatcher()

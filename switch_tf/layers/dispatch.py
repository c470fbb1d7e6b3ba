"""Moves tokens into the experts' buffers and back, independent of what the experts compute.

`GatherDispatcher` uses gathers: sorting the tokens by expert tells which token fills each slot,
and the routing's positions tell which slot holds each token. Each gather is the gradient of the
other, so neither direction scatters, and its cost does not grow with the group size, unlike that
of the one-hot products of `EinsumDispatcher`. Both give the same result up to rounding.

| tensor | shape | on a mesh |
|---|---|---|
| dispatched | [G, E, C, M] | groups over the batch dimension; the layer reshards it by experts |
| combined | [G, S, M] | groups over the batch dimension |

A group has P = E · C slots. The k-th choice of token s has index k · S + s, the order in which
buffers are filled.
"""

import tensorflow as tf

from switch_tf.layers.base import exact_dtype, sizes
from switch_tf.layers.products import product
from switch_tf.rules import configurable

# Name scope of the gradients, as TensorFlow would call it: profiles are read by these names.
_BACKWARD = "gradient_tape/dispatch/"


@tf.custom_gradient
def _to_slots(x_GSM, slot_GKS, choice_GP):
    """The token in each slot, 0 for empty slots; [groups, slots, d_model]."""

    def gradient(dy_GPM):
        # One choice at a time: with expert choice K = E, and all at once would be E rows per token.
        with tf.name_scope(_BACKWARD):
            return _sum_by_choice(slot_GKS, dy_GPM), None, None

    return _tokens(x_GSM, choice_GP, slot_GKS.shape[1]), gradient


@tf.custom_gradient
def _to_tokens(y_GPM, gate_GKS, slot_GKS, choice_GP):
    """Each token's slots times their gates, summed over choices; [groups, group_size, d_model]."""

    def gradient(dy_GSM):
        with tf.name_scope(_BACKWARD):
            gate_GP1 = _rows(tf.expand_dims(_flat(gate_GKS), -1), choice_GP)
            dy_GPM = _tokens(dy_GSM, choice_GP, slot_GKS.shape[1]) * gate_GP1
            dgates = [
                tf.reduce_sum(dy_GSM * _rows(y_GPM, slot_GS), axis=-1)
                for slot_GS in tf.unstack(slot_GKS, axis=1)
            ]
            return dy_GPM, tf.stack(dgates, axis=1), None, None

    return _sum_by_choice(slot_GKS, y_GPM, gate_GKS), gradient


def _sum_by_choice(slot_GKS, y_GPM, gate_GKS=None):
    """Sums the slots of each token's choices, each times its gate if there are gates."""
    slots = tf.unstack(slot_GKS, axis=1)
    # Rounds the sum over choices only once, as the product with one-hots does.
    dtype = exact_dtype(y_GPM.dtype.name, len(slots) > 1)
    total_GSM = None
    for k, slot_GS in enumerate(slots):
        term_GSM = tf.cast(_rows(y_GPM, slot_GS), dtype)
        if gate_GKS is not None:
            term_GSM *= tf.expand_dims(tf.cast(gate_GKS[:, k], dtype), -1)
        total_GSM = term_GSM if total_GSM is None else total_GSM + term_GSM
    return tf.cast(total_GSM, y_GPM.dtype)


def _tokens(x_GSM, choice_GP, choices):
    """The token of each choice index, 0 where the index is K · S."""
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
    """Flattens to [groups, K · group_size]; a reshape's gradient would all-gather the groups."""
    return tf.concat(tf.unstack(x_GKS, axis=1), axis=1)


@configurable
class GatherDispatcher:
    """Dispatches and combines by gathers; the faster choice on CPU."""

    def dispatch(self, x_GSM, routing):
        """Fills the experts' buffers.

        Args:
          x_GSM: [groups, group_size, d_model].
          routing: `Routing`.

        Returns:
          [groups, experts, expert_capacity, d_model]; empty slots are 0.
        """
        groups, _, d_model = sizes(x_GSM)
        x_GPM = _to_slots(x_GSM, *self._slots_choices(routing))
        return tf.reshape(x_GPM, [groups, routing.num_experts, routing.capacity, d_model])

    def combine(self, y_GECM, routing):
        """Brings the experts' outputs back to their tokens.

        Args:
          y_GECM: [groups, experts, expert_capacity, d_model].
          routing: `Routing`.

        Returns:
          [groups, group_size, d_model]: outputs times gates, summed; 0 for dropped tokens.
        """
        groups, experts, capacity, d_model = sizes(y_GECM)
        y_GPM = tf.reshape(y_GECM, [groups, experts * capacity, d_model])
        # Selective precision: the gate is cast back to the compute dtype before it is applied.
        gate_GKS = tf.cast(routing.gate_GKS, y_GPM.dtype)
        return _to_tokens(y_GPM, gate_GKS, *self._slots_choices(routing))

    def _slots_choices(self, routing):
        """The slot of each choice (P if dropped) and the choice in each slot (K · S if empty).

        All first choices of a group come before all second ones, the order in which buffers are
        filled, so that a stable sort by expert puts each choice at its position.
        """
        experts, capacity = routing.num_experts, routing.capacity
        groups, choices, group_size = sizes(routing.kept_GKS)
        slot_GKS = routing.expert_index_GKS * capacity + routing.position_GKS
        slot_GKS = tf.where(routing.kept_GKS, slot_GKS, experts * capacity)
        # Dropped choices sort behind those of all experts.
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
    """Dispatches and combines by products with one-hot tensors, as Mesh-TensorFlow does.

    The [groups, group_size, experts, expert_capacity] tensors take S times the memory of a gather,
    and their products S · C · E · d_model operations per group. Accelerators that are slow at
    gathers may still prefer them; with this dispatcher, keep the group size moderate.
    """

    def dispatch(self, x_GSM, routing):
        """Same as `GatherDispatcher.dispatch`."""
        kept_GKS = tf.cast(routing.kept_GKS, x_GSM.dtype)
        return product("GSEC,GSM->GECM", self._slots_GSEC(routing, kept_GKS), x_GSM)

    def combine(self, y_GECM, routing):
        """Same as `GatherDispatcher.combine`."""
        gate_GKS = tf.cast(routing.gate_GKS, y_GECM.dtype)
        return product("GSEC,GECM->GSM", self._slots_GSEC(routing, gate_GKS), y_GECM)

    def _slots_GSEC(self, routing, weight_GKS):
        """Puts each choice's weight at its slot, 0 elsewhere; dropped choices have weight 0."""
        total_GSEC, dtype = 0.0, weight_GKS.dtype
        for k in range(weight_GKS.shape[1]):
            experts_GSE = tf.one_hot(
                routing.expert_index_GKS[:, k], routing.num_experts, dtype=dtype
            ) * tf.expand_dims(weight_GKS[:, k], -1)
            places_GSC = tf.one_hot(routing.position_GKS[:, k], routing.capacity, dtype=dtype)
            total_GSEC += product("GSE,GSC->GSEC", experts_GSE, places_GSC)
        return total_GSEC


def default_dispatcher():
    """The dispatcher for the type of device: one-hot products on TPU, gathers elsewhere.

    On CPU, gathers were faster at every size measured (docs/switch_layer.md). On TPU, one-hot
    products are the paper's choice; neither TPU nor GPU was measured.
    """
    return EinsumDispatcher() if tf.config.list_physical_devices("TPU") else GatherDispatcher()

"""The base class of Switch layers: route, dispatch, experts, combine (paper, Fig. 2)."""

from collections.abc import Callable
from typing import Annotated

import keras
import tensorflow as tf

from switch_tf import mesh as mesh_lib
from switch_tf.errors import UserError
from switch_tf.layers import routing as routing_lib
from switch_tf.layers.base import (
    ROWS_OR_SEQUENCES,
    Layer,
    check_axes,
    configurable,
    lay_out,
    registered,
    sizes,
)
from switch_tf.layers.context import current_call
from switch_tf.layers.dispatch import EinsumDispatcher, GatherDispatcher, default_dispatcher
from switch_tf.layers.router import OF_EXPERTS, Router, SwitchRouter
from switch_tf.rules import Axis, Count, NonNegative, of_model

NumExperts = Annotated[Count, Axis("experts")]
_DISPATCHERS = {kind.__name__: kind for kind in (GatherDispatcher, EinsumDispatcher)}


@configurable
class SwitchLayer(Layer):
    """A layer of E experts, to which a router sends tokens; a subclass creates `experts`.

    Under layout rules that map `batch` and `experts` to the same mesh dimension, the two relayouts
    around the experts are all-to-alls of [E, C, d_model] per group in the compute dtype.

    Attributes:
      experts: layer that maps [groups, experts, expert_capacity, d_model] to the same shape, or to
        another last dimension.
      expert_width: number of weights of one expert, divided by d_model.
      output_axis: axis name of the experts' last dimension, if a mesh may shard it.

    Args:
      num_experts: number of experts, E.
      group_size: S, the maximum number of tokens routed together; groups are equal, so the largest
        possible divisor of the batch's tokens is used. None makes each sequence a group. Larger
        groups balance better, so that fewer tokens are dropped at the same capacity factor, but
        the cost of one-hot dispatch grows with S (that of gathers does not). 2,048 to 4,096 is a
        good choice; the published models use 2,048 to 8,192.
      groups_multiple: the number of groups is a multiple of this, so that routing is the same on
        all meshes whose number of batch shards divides it. Set it to the largest such number you
        plan for; larger values make groups smaller. If they would become so small that capacity
        is far from the capacity factor (`Router.odd_factor`), only the mesh's batch shards count.
      mask_padding: keeps padding out of the experts, so that it takes no capacity. False routes it
        like tokens, as Hugging Face does; use it only to compare.
      init_scale: s of the fan-in initialisation of router and experts; the paper's 0.1 is more
        stable than 1.0 (Table 3).
      router: class or function that makes the router from `num_experts` and `init_scale`.
      dispatcher: class or function that makes the dispatcher; the default suits the device.
    """

    experts: Layer
    expert_width: int
    output_axis: str | None = None

    def __init__(
        self,
        num_experts: Annotated[NumExperts, OF_EXPERTS],
        group_size: Count | None = None,
        groups_multiple: Count = 1,
        mask_padding: bool = True,
        init_scale: Annotated[NonNegative, of_model("init_scale")] = 0.1,
        router: Callable[..., Router] = SwitchRouter,
        dispatcher: Callable[[], GatherDispatcher | EinsumDispatcher] = default_dispatcher,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_experts = num_experts
        self.group_size = group_size
        self.groups_multiple = groups_multiple
        self.mask_padding = mask_padding
        self.init_scale = init_scale
        exact = {"dtype": self.dtype_policy} if self.compute_dtype == "float64" else {}
        self.router = router(num_experts=num_experts, init_scale=init_scale, name="router", **exact)
        self.dispatcher = dispatcher()
        self.supports_masking = True

    def build(self, input_shape):
        """input_shape: [batch, length, d_model]."""
        d_model = input_shape[-1]
        self.router.build((None, None, d_model))
        self.experts.build((None, self.num_experts, None, d_model))

    def call(self, x_BLM, nonpadding_BL=None, training=False, mask=None):
        """Routes each token to its expert and back.

        Args:
          x_BLM: [batch, length, d_model], or [batch, d_model], whose rows are one sequence.
          nonpadding_BL: 1 for tokens, 0 for padding; None if all are tokens.
          training: enables dropout and jitter, and selects the capacity factor.
          mask: Keras mask, [batch, length], used if `nonpadding_BL` is None.

        Returns:
          [batch, length, d_model], or with the experts' own last dimension; exactly 0 for dropped
          tokens and masked padding. The load-balancing loss goes to `context.collect`, or if none
          is open, to Keras (`layer.losses`).
        """
        check_axes(self, x_BLM, *ROWS_OR_SEQUENCES)
        if x_BLM.shape.rank == 2:
            return self._call_on_rows(x_BLM, nonpadding_BL, training, mask)
        batch, length, d_model = sizes(x_BLM)
        groups, group_size = self.groups(batch, length)
        x_GSM = lay_out(tf.reshape(x_BLM, [groups, group_size, d_model]), ("batch", None, None))
        nonpadding_BL, nonpadding_GS = mask if nonpadding_BL is None else nonpadding_BL, None
        if nonpadding_BL is not None and self.mask_padding:
            nonpadding_GS = tf.reshape(tf.cast(nonpadding_BL, tf.float32), [groups, group_size])
        routing = self.router(x_GSM, nonpadding_GS, training=training)
        with tf.name_scope("dispatch"):
            x_GECM = self.dispatcher.dispatch(x_GSM, routing)
            # All-to-all: from a device's own groups for all experts to all groups for its own
            # experts.
            x_GECM = lay_out(x_GECM, (spare_groups_axis(), "experts", None, None))
        y_GECN = self.experts(x_GECM, training=training)
        with tf.name_scope("combine"):
            y_GECN = lay_out(y_GECN, ("batch", None, None, self.output_axis))
            y_GSN = self.dispatcher.combine(y_GECN, routing)
        self._report(routing, is_masked=nonpadding_GS is not None)
        y_BLN = tf.reshape(y_GSN, [batch, length, y_GSN.shape[-1]])
        return lay_out(y_BLN, ("batch", "length", self.output_axis))

    def _call_on_rows(self, x_LM, nonpadding_L, training, mask):
        nonpadding_L = mask if nonpadding_L is None else nonpadding_L
        nonpadding_BL = None if nonpadding_L is None else tf.expand_dims(nonpadding_L, 0)
        return self.call(tf.expand_dims(x_LM, 0), nonpadding_BL, training=training)[0]

    def groups(self, batch: int, length: int, mesh=None) -> tuple[int, int]:
        """Number of groups, and of tokens per group.

        They are the same on every mesh whose number of batch shards divides `groups_multiple`,
        unless such groups are too small for the capacity factor. If Keras leaves the batch size
        open, each sequence is a group.

        Args:
          batch, length: number of sequences, and of tokens per sequence. Either is a tensor if
            Keras leaves it open, the length only of a single sequence.
          mesh: mesh over which the batch is sharded; None for the one in use.

        Raises:
          UserError: the groups are not divisible by the number of batch shards; a group size is
            set although the batch size is open; the length is open.
        """
        is_one = isinstance(batch, int) and batch == 1
        if not isinstance(length, int) and not is_one:
            raise UserError(
                f"{type(self).__name__} needs to know the length, because its experts' capacity "
                "depends on it: give keras.Input a length"
            )
        if not isinstance(batch, int) or not isinstance(length, int):
            if self.group_size is not None or self.groups_multiple > 1:
                name = f"{type(self).__name__}.group_size"
                raise UserError(
                    f"{name}={self.group_size} needs to know the batch: give "
                    "keras.Input a batch_size, or leave group_size and groups_multiple out"
                )
            return batch, length
        tokens = batch * length
        mesh = mesh or mesh_lib.current()
        ways = mesh.ways("batch") if mesh else 1
        most = length if self.group_size is None else self.group_size
        groups, group_size = _divide(tokens, most, self.groups_multiple)
        if groups > ways and self.router.odd_factor(group_size) is not None:
            fewer, larger = _divide(tokens, most, ways)
            # The larger a group, the closer its capacity is to the capacity factor.
            if fewer < groups:
                groups, group_size = fewer, larger
        if groups % ways:
            raise UserError(
                f"GROUP_SIZE={self.group_size} and GROUPS_MULTIPLE={self.groups_multiple} split a "
                f"batch of {batch} x {length} tokens into {groups} groups, not divisible by {ways} "
                f"devices: set GROUPS_MULTIPLE={ways}"
            )
        return groups, group_size

    def flops(self, d_model: int, length: int) -> int:
        """Forward FLOPs of one sequence: the router, and the experts that its tokens visit.

        Empty slots are not counted: they are a cost of the capacity factor, not of the model.
        """
        visited = round(self.router.experts_per_token * self.expert_width)
        return 2 * length * d_model * (self.num_experts + visited)

    def _report(self, routing, is_masked):
        router = self.router
        by_tokens = is_masked and router.load_balancing_over == "tokens"
        report = routing_lib.Report(
            self.path, routing, router.load_balancing_coef, router.z_loss_coef, by_tokens
        )
        reports = current_call().reports
        if reports is None:
            self.add_loss(report.loss())
        else:
            reports.append(report)

    def get_config(self):
        """Constructor arguments."""
        names = "num_experts group_size groups_multiple mask_padding init_scale"
        parts = {
            "router": keras.saving.get_registered_name(type(self.router)),
            "router_config": self.router.get_config(),
            "dispatcher": type(self.dispatcher).__name__,
        }
        return super().get_config() | {name: getattr(self, name) for name in names.split()} | parts

    @classmethod
    def from_config(cls, config):
        """Recreates the layer from its `get_config`, with a router of its own.

        Raises:
          UserError: the dispatcher is not one of this project's.
        """
        config = dict(config)
        router = registered(config.pop("router"))
        router_config, name = config.pop("router_config"), config.pop("dispatcher")
        if name not in _DISPATCHERS:
            raise UserError(f"dispatcher '{name}' is not one of {', '.join(_DISPATCHERS)}")
        return cls(
            **config,
            router=lambda **_: router.from_config(router_config),
            dispatcher=_DISPATCHERS[name],
        )


def _divide(tokens: int, most: int, multiple: int) -> tuple[int, int]:
    """Number and size of groups: the fewest of at most `most` tokens, a multiple of `multiple`."""
    groups = -(-tokens // most)
    while (tokens % groups or groups % multiple) and groups < tokens:
        groups += 1
    return groups, tokens // groups


def experts_first(x_GECM):
    """Swaps groups and experts, in either order: [groups, experts, ...] and [experts, groups, ...].

    With the experts first, each matrix product of the experts, and its gradients, takes its
    operands as they lie in memory. Otherwise the gradient of a weight would take twice as long.
    """
    return tf.transpose(x_GECM, [1, 0, 2, 3])


def spare_groups_axis():
    """`batch` if groups can stay sharded while experts are sharded, otherwise None."""
    mesh = mesh_lib.current()
    rules = mesh.rules if mesh else {}
    return None if rules.get("batch") == rules.get("experts") else "batch"

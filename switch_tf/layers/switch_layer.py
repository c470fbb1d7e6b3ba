"""What all Switch layers share: route, dispatch, experts, combine (paper, Fig. 2)."""

from collections.abc import Callable
from typing import Annotated

import keras
import tensorflow as tf

from switch_tf import mesh as mesh_lib
from switch_tf.errors import UserError
from switch_tf.layers import routing as routing_lib
from switch_tf.layers.base import Layer, configurable, lay_out, registered, sizes
from switch_tf.layers.context import current_call
from switch_tf.layers.dispatch import EinsumDispatcher, GatherDispatcher, default_dispatcher
from switch_tf.layers.router import Router, SwitchRouter
from switch_tf.rules import Axis, Count, NonNegative

NumExperts = Annotated[Count, Axis("experts")]
_DISPATCHERS = {kind.__name__: kind for kind in (GatherDispatcher, EinsumDispatcher)}


@configurable
class SwitchLayer(Layer):
    """A layer of E experts, of which each token visits one; a subclass makes `experts`.

    Under layout rules that send `batch` and `experts` to one mesh dimension, the two relayouts
    around the experts are all-to-alls of [E, C, d_model] a group in the compute dtype.

    Attributes:
      experts: a layer from [groups, experts, expert_capacity, d_model] to the same with another
        last dimension.
      expert_width: weights of one expert over d_model.
      output_axis: axis name of the experts' last dimension, if a mesh may spread it.

    Args:
      num_experts: E.
      group_size: S, most tokens routed together; a divisor of the tokens is taken. None: each
        sequence is a group. Larger groups drop fewer tokens at one capacity factor; one-hot
        dispatch costs in proportion to S. 2,048 to 8,192 were used for the published models.
      groups_multiple: the number of groups is a multiple of it, whatever the mesh, so that all
        meshes whose batch ways divide it group alike; but where groups would become so small that
        an expert's capacity is far from the capacity factor (`Router.odd_factor`), of the mesh's
        batch ways alone.
      mask_padding: whether padding is kept out of the experts (Hugging Face routes it).
      init_scale: s of the fan-in initialisation of router and experts (paper: 0.1).
      router: class or function making the router from `num_experts` and `init_scale`.
      dispatcher: class or function making the dispatcher, by default the faster for the device.
    """

    experts: Layer
    expert_width: int
    output_axis: str | None = None

    def __init__(
        self,
        num_experts: NumExperts,
        group_size: Count | None = None,
        groups_multiple: Count = 1,
        mask_padding: bool = True,
        init_scale: NonNegative = 0.1,
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
        self.router = router(num_experts=num_experts, init_scale=init_scale, name="router")
        self.dispatcher = dispatcher()
        self.supports_masking = True

    def build(self, input_shape):
        """input_shape: [batch, length, d_model]."""
        d_model = input_shape[-1]
        self.router.build((None, None, d_model))
        self.experts.build((None, self.num_experts, None, d_model))

    def call(self, x_BLM, nonpadding_BL=None, training=False, mask=None):
        """Applies one expert to each token.

        Args:
          x_BLM: [batch, length, d_model].
          nonpadding_BL: 1 for a token, 0 for padding; None: all are tokens.
          training: dropout, jitter, and which capacity factor holds.
          mask: Keras's, [batch, length]; taken where nonpadding_BL is None.

        Returns:
          [batch, length, d_model], or another last dimension by the experts; exactly 0 for dropped
          tokens and padding. The load-balancing loss goes to `context.collect`, or without one to
          Keras (`layer.losses`).
        """
        batch, length, d_model = sizes(x_BLM)
        groups, group_size = self.groups(batch, length)
        x_GSM = lay_out(tf.reshape(x_BLM, [groups, group_size, d_model]), ("batch", None, None))
        nonpadding_BL, nonpadding_GS = mask if nonpadding_BL is None else nonpadding_BL, None
        if nonpadding_BL is not None and self.mask_padding:
            nonpadding_GS = tf.reshape(tf.cast(nonpadding_BL, tf.float32), [groups, group_size])
        routing = self.router(x_GSM, nonpadding_GS, training=training)
        with tf.name_scope("dispatch"):
            x_GECM = self.dispatcher.dispatch(x_GSM, routing)
            # All-to-all: from each device's groups, all experts, to all groups, each device's
            # experts.
            x_GECM = lay_out(x_GECM, (spare_groups_axis(), "experts", None, None))
        y_GECN = self.experts(x_GECM, training=training)
        with tf.name_scope("combine"):
            y_GECN = lay_out(y_GECN, ("batch", None, None, self.output_axis))
            y_GSN = self.dispatcher.combine(y_GECN, routing)
        self._report(routing, is_masked=nonpadding_GS is not None)
        y_BLN = tf.reshape(y_GSN, [batch, length, y_GSN.shape[-1]])
        return lay_out(y_BLN, ("batch", "length", self.output_axis))

    def groups(self, batch: int, length: int, mesh=None) -> tuple[int, int]:
        """Number of groups and tokens a group.

        The same on every mesh whose batch ways divide `groups_multiple`, but where its groups would
        be too small for the capacity factor. A batch of a size that Keras leaves open is grouped by
        sequences.

        Args:
          batch, length: sequences, and tokens of one.
          mesh: over which they are spread; None: the one in use.

        Raises:
          UserError: the groups do not divide over the devices that the batch is spread over; a
            group size for a batch of open size; an open length.
        """
        if not isinstance(length, int):
            raise UserError(
                f"{type(self).__name__} needs to know the length, of which its experts' capacity "
                "is a part: give keras.Input a length"
            )
        if not isinstance(batch, int):
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
            # The larger a group, the nearer is its capacity to the factor.
            if fewer < groups:
                groups, group_size = fewer, larger
        if groups % ways:
            raise UserError(
                f"GROUP_SIZE={self.group_size} and GROUPS_MULTIPLE={self.groups_multiple} make "
                f"{groups} groups of a batch of {batch} x {length} tokens, which do not divide "
                f"over {ways} devices: set GROUPS_MULTIPLE={ways}"
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
        """The layer that `get_config` is of, with a router of its own.

        Raises:
          UserError: a dispatcher that is not of this project.
        """
        config = dict(config)
        router = registered(config.pop("router"))
        router_config, name = config.pop("router_config"), config.pop("dispatcher")
        if name not in _DISPATCHERS:
            raise UserError(f"dispatcher '{name}' is none of {', '.join(_DISPATCHERS)}")
        return cls(
            **config,
            router=lambda **_: router.from_config(router_config),
            dispatcher=_DISPATCHERS[name],
        )


def _divide(tokens: int, most: int, multiple: int) -> tuple[int, int]:
    """The fewest groups of at most `most` tokens, a multiple of `multiple`; and their size."""
    groups = -(-tokens // most)
    while (tokens % groups or groups % multiple) and groups < tokens:
        groups += 1
    return groups, tokens // groups


def spare_groups_axis():
    """`batch` if the groups can stay spread while the experts are, else None."""
    mesh = mesh_lib.current()
    rules = mesh.rules if mesh else {}
    return None if rules.get("batch") == rules.get("experts") else "batch"

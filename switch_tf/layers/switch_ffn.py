"""The Switch feed-forward layer: route, dispatch, experts, combine (paper, Fig. 2)."""

import keras
import tensorflow as tf

from switch_tf import mesh as mesh_lib
from switch_tf.errors import UserError
from switch_tf.layers import routing as routing_lib
from switch_tf.layers.base import Layer, configurable, lay_out, sizes
from switch_tf.layers.dispatch import EinsumDispatcher, GatherDispatcher
from switch_tf.layers.dropout import Dropout
from switch_tf.layers.feed_forward import activate, check_activation, input_kernels
from switch_tf.layers.initializers import TruncatedNormal
from switch_tf.layers.router import SwitchRouter

_DISPATCHERS = {kind.__name__: kind for kind in (GatherDispatcher, EinsumDispatcher)}


class Experts(Layer):
    """E feed-forward layers, each applied to its own buffer of tokens.

    Args:
      num_experts: E.
      d_ff: width of an expert's hidden layer.
      activation: "relu" or "geglu".
      dropout_rate: expert dropout, on the hidden layer inside the experts (paper, Sec. 4.2).
      init_scale: s of the fan-in initialisation.
    """

    def __init__(
        self, num_experts, d_ff, activation="relu", dropout_rate=0.0, init_scale=0.1, **kwargs
    ):
        super().__init__(**kwargs)
        self.num_experts = num_experts
        self.d_ff = d_ff
        self.activation = check_activation(activation)
        self.dropout_rate = dropout_rate
        self.init_scale = init_scale
        self.dropout = Dropout(dropout_rate, name="dropout", dtype=self.dtype_policy)

    def build(self, input_shape):
        """input_shape: [groups, experts, expert_capacity, d_model]."""
        d_model = input_shape[-1]
        shape, axes = (self.num_experts, d_model, self.d_ff), ("experts", "d_model", "d_ff")
        wi_init = TruncatedNormal.fan_in(self.init_scale, d_model)
        self.wi = [self.weight(n, shape, axes, wi_init) for n in input_kernels(self.activation)]
        wo_shape, wo_axes = (self.num_experts, self.d_ff, d_model), ("experts", "d_ff", "d_model")
        wo_init = TruncatedNormal.fan_in(self.init_scale, self.d_ff)
        self.wo = self.weight("wo", wo_shape, wo_axes, wo_init)
        self.dropout.build(None)

    def call(self, x_GECM, training=False):
        """x_GECM: [groups, experts, expert_capacity, d_model]; returns the same shape."""
        hiddens = [tf.einsum("GECM,EMF->GECF", x_GECM, self.read(wi_EMF)) for wi_EMF in self.wi]
        axes = (_spare_groups_axis(), "experts", None, "d_ff")
        hidden_GECF = self.dropout(activate(hiddens), axes=axes, training=training)
        return tf.einsum("GECF,EFM->GECM", hidden_GECF, self.read(self.wo))

    def get_config(self):
        """Constructor arguments."""
        names = "num_experts d_ff activation dropout_rate init_scale"
        return super().get_config() | {name: getattr(self, name) for name in names.split()}


@configurable
class SwitchFFN(Layer):
    """A feed-forward layer of E experts, of which each token visits one (paper, Sec. 2.1).

    Under layout rules that send `batch` and `experts` to one mesh dimension, the two relayouts
    around the experts are all-to-alls of [E, C, d_model] a group in the compute dtype.

    Args:
      num_experts: E.
      d_ff: width of an expert's hidden layer.
      activation: "relu" or "geglu".
      expert_dropout_rate: dropout on the experts' hidden layer (paper, Sec. 4.2).
      group_size: S, most tokens routed together; a divisor of the tokens is taken. None: each
        sequence is a group.
      groups_multiple: the number of groups is a multiple of it, whatever the mesh, so that all
        meshes whose batch ways divide it group alike.
      mask_padding: whether padding is kept out of the experts (Hugging Face routes it).
      init_scale: s of the fan-in initialisation of router and experts (paper: 0.1).
      router: class or function making the router from `num_experts` and `init_scale`.
      dispatcher: class or function making the dispatcher.
    """

    def __init__(
        self,
        num_experts,
        d_ff,
        activation="relu",
        expert_dropout_rate=0.0,
        group_size=None,
        groups_multiple=1,
        mask_padding=True,
        init_scale=0.1,
        router=SwitchRouter,
        dispatcher=GatherDispatcher,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_experts = num_experts
        self.d_ff = d_ff
        self.activation = activation
        self.expert_dropout_rate = expert_dropout_rate
        self.group_size = group_size
        self.groups_multiple = groups_multiple
        self.mask_padding = mask_padding
        self.init_scale = init_scale
        self.router = router(num_experts=num_experts, init_scale=init_scale, name="router")
        self.dispatcher = dispatcher()
        self.experts = Experts(
            num_experts,
            d_ff,
            activation,
            expert_dropout_rate,
            init_scale,
            name="experts",
            dtype=self.dtype_policy,
        )

    def build(self, input_shape):
        """input_shape: [batch, length, d_model]."""
        d_model = input_shape[-1]
        self.router.build((None, None, d_model))
        self.experts.build((None, self.num_experts, None, d_model))

    def call(self, x_BLM, nonpadding_BL=None, training=False):
        """Applies one expert to each token.

        Args:
          x_BLM: [batch, length, d_model].
          nonpadding_BL: 1 for a token, 0 for padding; None: all are tokens.
          training: dropout, jitter, and which capacity factor holds.

        Returns:
          [batch, length, d_model]; exactly 0 for dropped tokens and padding. The load-balancing
          loss goes to `routing.collect`, or without one to Keras (`layer.losses`).
        """
        batch, length, d_model = sizes(x_BLM)
        groups, group_size = self.groups(batch, length)
        x_GSM = lay_out(tf.reshape(x_BLM, [groups, group_size, d_model]), ("batch", None, None))
        nonpadding_GS = None
        if nonpadding_BL is not None and self.mask_padding:
            nonpadding_GS = tf.reshape(tf.cast(nonpadding_BL, tf.float32), [groups, group_size])
        routing = self.router(x_GSM, nonpadding_GS, training=training)
        with tf.name_scope("dispatch"):
            x_GECM = self.dispatcher.dispatch(x_GSM, routing)
            # All-to-all: from each device's groups, all experts, to all groups, each device's
            # experts.
            x_GECM = lay_out(x_GECM, (_spare_groups_axis(), "experts", None, None))
        y_GECM = self.experts(x_GECM, training=training)
        with tf.name_scope("combine"):
            y_GECM = lay_out(y_GECM, ("batch", None, None, None))
            y_GSM = self.dispatcher.combine(y_GECM, routing)
        self._report(routing)
        return lay_out(tf.reshape(y_GSM, [batch, length, d_model]), ("batch", "length", None))

    def groups(self, batch: int, length: int) -> tuple[int, int]:
        """Number of groups and tokens a group, the same on every mesh.

        A batch of a size that Keras leaves open is grouped by sequences.

        Raises:
          UserError: the groups do not divide over the devices that the batch is spread over; a
            group size for a batch of open size.
        """
        if not isinstance(batch, int):
            if self.group_size is not None or self.groups_multiple > 1:
                raise UserError(
                    f"SwitchFFN.group_size={self.group_size} needs to know the batch: give "
                    "keras.Input a batch_size, or leave group_size and groups_multiple out"
                )
            return batch, length
        tokens = batch * length
        groups = -(-tokens // (length if self.group_size is None else self.group_size))
        while (tokens % groups or groups % self.groups_multiple) and groups < tokens:
            groups += 1
        group_size = tokens // groups
        mesh = mesh_lib.current()
        ways = mesh.ways("batch") if mesh else 1
        if groups % ways:
            raise UserError(
                f"GROUP_SIZE={self.group_size} and GROUPS_MULTIPLE={self.groups_multiple} make "
                f"{groups} groups of a batch of {batch} x {length} tokens, which do not divide "
                f"over {ways} devices: set GROUPS_MULTIPLE={ways}"
            )
        return groups, group_size

    def _report(self, routing):
        report = routing_lib.Report(
            self.path, routing, self.router.load_balancing_coef, self.router.z_loss_coef
        )
        collector = routing_lib.collector()
        if collector is None:
            self.add_loss(report.loss())
        else:
            collector.append(report)

    def flops(self, d_model: int, length: int) -> int:
        """Forward FLOPs of one sequence: router, and one expert a token.

        Empty slots are not counted: they are a cost of the capacity factor, not of the model.
        """
        kernels = len(input_kernels(self.activation)) + 1
        return 2 * length * d_model * (self.num_experts + self.d_ff * kernels)

    def get_config(self):
        """Constructor arguments."""
        names = (
            "num_experts d_ff activation expert_dropout_rate group_size groups_multiple "
            "mask_padding init_scale"
        )
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
        router = keras.saving.get_registered_object(config.pop("router"))
        router_config, name = config.pop("router_config"), config.pop("dispatcher")
        if name not in _DISPATCHERS:
            raise UserError(f"dispatcher '{name}' is none of {', '.join(_DISPATCHERS)}")
        return cls(
            **config,
            router=lambda **_: router.from_config(router_config),
            dispatcher=_DISPATCHERS[name],
        )


def _spare_groups_axis():
    """`batch` if the groups can stay spread while the experts are, else None."""
    mesh = mesh_lib.current()
    rules = mesh.rules if mesh else {}
    return None if rules.get("batch") == rules.get("experts") else "batch"

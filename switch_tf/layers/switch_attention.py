"""Switch attention: experts compute queries, keys and values (paper, Appendix A, Table 10)."""

import functools
from collections.abc import Callable, Sequence
from typing import Annotated

import keras
import tensorflow as tf

from switch_tf.layers.attention import MERGED_AXES, Attention, input_initializers
from switch_tf.layers.base import Layer, configurable, lay_out, registered, sizes
from switch_tf.layers.products import product
from switch_tf.layers.switch_layer import NumExperts, SwitchLayer, experts_first
from switch_tf.rules import Count, NonNegative, Rate, of_model


class ProjectionExperts(Layer):
    """E experts holding input kernels of attention, each applied to its own buffer of tokens.

    Args:
      num_experts: number of experts, E.
      kernels: which kernels an expert has, out of "query", "key" and "value".
      num_heads, d_kv: number of heads and width of each.
      init_scale: s of the fan-in initialisation.
    """

    def __init__(self, num_experts, kernels, num_heads, d_kv, init_scale=0.1, **kwargs):
        super().__init__(**kwargs)
        self.num_experts = num_experts
        self.kernel_names = tuple(kernels)
        self.num_heads = num_heads
        self.d_kv = d_kv
        self.init_scale = init_scale

    def build(self, input_shape):
        """input_shape: [groups, experts, expert_capacity, d_model]."""
        d_model = input_shape[-1]
        shape = (self.num_experts, d_model, self.num_heads, self.d_kv)
        axes = ("experts", "d_model", "heads", "d_kv")
        inits = input_initializers(self.init_scale, d_model, self.d_kv)
        self.kernels = [
            self.weight(name, shape, axes, inits[name], MERGED_AXES) for name in self.kernel_names
        ]

    def call(self, x_GECM, training=False):
        """Returns [groups, experts, expert_capacity, heads · kernels · d_kv], ordered by head.

        On a mesh that shards the heads, each device thus has its heads' part of every kernel.
        """
        x_EGCM = experts_first(x_GECM)
        products = [
            product("EGCM,EMHK->EGCHK", x_EGCM, self.read(kernel_EMHK))
            for kernel_EMHK in self.kernels
        ]
        width = len(self.kernels) * self.num_heads * self.d_kv
        y_EGCN = tf.reshape(tf.concat(products, axis=-1), [*sizes(x_EGCM)[:3], width])
        return experts_first(y_EGCN)

    def get_config(self):
        """Constructor arguments."""
        names = "num_experts num_heads d_kv init_scale"
        config = super().get_config() | {name: getattr(self, name) for name in names.split()}
        return config | {"kernels": self.kernel_names}


@configurable
class SwitchProjection(SwitchLayer):
    """A Switch layer with linear experts that compute queries, or keys and values.

    Args:
      num_experts: number of experts, E.
      kernels: which kernels an expert has, out of "query", "key" and "value".
      num_heads: number of heads.
      d_kv: width of each head.
      **kwargs: arguments of `SwitchLayer`.
    """

    output_axis = "heads"

    def __init__(
        self,
        num_experts: NumExperts,
        kernels: Annotated[Sequence[str], of_model("switch_attention")],
        num_heads: Annotated[Count, of_model("num_heads")],
        d_kv: Annotated[Count, of_model("d_kv")],
        **kwargs,
    ):
        super().__init__(num_experts, **kwargs)
        self.kernel_names = tuple(kernels)
        self.num_heads = num_heads
        self.d_kv = d_kv
        self.experts = ProjectionExperts(
            num_experts,
            kernels,
            num_heads,
            d_kv,
            self.init_scale,
            name="experts",
            dtype=self.dtype_policy,
        )

    def call(self, x_BLM, nonpadding_BL=None, training=False, mask=None):
        """Returns [batch, length, heads, d_kv] per kernel, 0 for dropped tokens and padding.

        Takes the same arguments as `SwitchLayer.call`.
        """
        y_BLN = super().call(x_BLM, nonpadding_BL, training=training, mask=mask)
        kernels = len(self.kernel_names)
        shape = [*sizes(y_BLN)[:2], self.num_heads, kernels * self.d_kv]
        y_BLHK = lay_out(tf.reshape(y_BLN, shape), ("batch", "length", "heads", None))
        return tf.split(y_BLHK, kernels, axis=-1)

    def compute_output_shape(self, input_shape):
        """The shape of each kernel's output."""
        shape = (*input_shape[:2], self.num_heads, self.d_kv)
        return [shape] * len(self.kernel_names)

    @property
    def expert_width(self) -> int:
        """num_heads · d_kv · number of kernels."""
        return self.num_heads * self.d_kv * len(self.kernel_names)

    def get_config(self):
        """Constructor arguments."""
        names = ("num_heads", "d_kv")
        config = super().get_config() | {name: getattr(self, name) for name in names}
        return config | {"kernels": self.kernel_names}


@configurable
class SwitchAttention(Attention):
    """Self-attention with one Switch layer for queries, another for keys and values (Fig. 10).

    In the paper it helps in float32 but diverges in bfloat16 (Table 10). A token dropped by the
    query layer has query 0, so it attends by relative position alone; one dropped by the other
    layer has key and value 0.

    Args:
      num_heads, d_kv, dropout_rate, init_scale, float32_logits: same as in `Attention`.
      projection: class or function that makes the Switch layers from `kernels`, `num_heads`,
        `d_kv` and `init_scale`.
    """

    def __init__(
        self,
        num_heads: Annotated[Count, of_model("num_heads")],
        d_kv: Annotated[Count, of_model("d_kv")],
        dropout_rate: Annotated[Rate, of_model("dropout_rate")] = 0.0,
        init_scale: Annotated[NonNegative, of_model("init_scale")] = 0.1,
        float32_logits: Annotated[bool, of_model("float32_attention_logits")] = True,
        projection: Callable[..., SwitchProjection] = SwitchProjection,
        **kwargs,
    ):
        super().__init__(num_heads, d_kv, dropout_rate, init_scale, float32_logits, **kwargs)
        make = functools.partial(
            projection,
            num_heads=num_heads,
            d_kv=d_kv,
            init_scale=init_scale,
            dtype=self.dtype_policy,
        )
        self.query_layer = make(kernels=("query",), name="query")
        self.key_value_layer = make(kernels=("key", "value"), name="key_value")

    @property
    def switch_layers(self):
        """The Switch layer of queries, and that of keys and values."""
        return self.query_layer, self.key_value_layer

    def build_inputs(self, d_model):
        """Creates both Switch layers' weights."""
        self.query_layer.build((None, None, d_model))
        self.key_value_layer.build((None, None, d_model))

    def make_query(self, x_BLM, nonpadding_BL, training):
        """Returns the queries, [batch, length, heads, d_kv]."""
        return self.query_layer(x_BLM, nonpadding_BL, training=training)[0]

    def make_key_value(self, x_BTM, nonpadding_BT, training):
        """Returns keys and values, each [batch, length, heads, d_kv]."""
        return self.key_value_layer(x_BTM, nonpadding_BT, training=training)

    def flops(self, d_model: int, length: int, memory_length: int) -> int:
        """Forward FLOPs of one sequence: matrix products only, 2 per multiply-add."""
        dense = super().flops(d_model, length, memory_length)
        width = self.num_heads * self.d_kv
        kernels = 2 * d_model * width * (length + 2 * memory_length)
        layers = self.query_layer.flops(d_model, length)
        layers += self.key_value_layer.flops(d_model, memory_length)
        return dense - kernels + layers

    def get_config(self):
        """Constructor arguments."""
        layer = self.query_layer.get_config()
        shared = {"name", "kernels", "num_heads", "d_kv", "init_scale", "dtype"}
        return super().get_config() | {
            "projection": keras.saving.get_registered_name(type(self.query_layer)),
            "projection_config": {n: value for n, value in layer.items() if n not in shared},
        }

    @classmethod
    def from_config(cls, config):
        """Recreates the layer from its `get_config`."""
        config = dict(config)
        projection, layer = registered(config.pop("projection")), config.pop("projection_config")

        def make(**given):
            return projection.from_config(layer | given)

        return cls(**config, projection=make)

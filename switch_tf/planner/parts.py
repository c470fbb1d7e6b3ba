"""The parts of a training step on paper: what each of a model's layers costs a device.

Sizes are those of one device and one micro-batch. Nothing is traced or allocated: all follows from
shapes, so a step of any model on any mesh takes milliseconds. Tests compare it with steps that
DTensor has lowered.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

from switch_tf.data.task_data import TaskData
from switch_tf.errors import UserError
from switch_tf.layers.feed_forward import FeedForward
from switch_tf.layers.switch_ffn import SwitchFFN
from switch_tf.layers.switch_layer import SwitchLayer
from switch_tf.mesh import Mesh
from switch_tf.models.encoder_decoder import TransformerEncoderDecoder

_FLOAT32, _BFLOAT16 = 4, 2
# In which dtype DTensor adds up on CPU. On TPU it may add up in bfloat16, which sends half.
_REDUCED = _FLOAT32
# What a tensor may be sharded by, for this planner. Others gather or scatter tokens or weights.
_SHARDED = ("batch", "experts", "heads", "d_ff", "vocab")


@dataclasses.dataclass(frozen=True)
class Exchange:
    """A collective operation of a step.

    Attributes:
      kind: "all-to-all" or "all-reduce".
      over: the mesh dimension along which devices take part.
      elements: elements that each device sends.
      element_bytes: bytes of an element.
      forward, backward: how often it occurs in either pass.
      again: how often it occurs once more if activations of blocks are made again: as often as in
        the forward pass, unless only the block's output needs it.
    """

    kind: str
    over: str
    elements: int
    element_bytes: int
    forward: int = 0
    backward: int = 0
    again: int = 0


@dataclasses.dataclass(frozen=True)
class Part:
    """What a layer, the embedding or the loss costs a device in one micro-batch.

    Attributes:
      name: what it is.
      flops, backward_flops: of its matrix products, 2 per multiply-add, in either pass.
      kept: bytes of activations that the backward pass needs, apart from `buffers`.
      buffers: bytes of the experts' buffers that it needs, which all-to-alls bring.
      passing: bytes that it writes and reads, and does not keep, in the forward pass.
      exchanges: its collectives.
      block: the number of its block, whose activations `rematerialize` makes again; None outside.
    """

    name: str
    flops: float = 0.0
    backward_flops: float = 0.0
    kept: int = 0
    buffers: int = 0
    passing: int = 0
    exchanges: tuple[Exchange, ...] = ()
    block: int | None = None


@dataclasses.dataclass(frozen=True)
class StepSizes:
    """The sizes of a step, from which its parts follow.

    Attributes:
      model: a model, which need not be built.
      data: gives the lengths and the batch size.
      mesh: a mesh, which may be on paper.
      microbatches: parts into which a batch is divided.
      one_hot: whether tokens are dispatched by products with one-hot tensors, as on TPU.
    """

    model: TransformerEncoderDecoder
    data: TaskData
    mesh: Mesh
    microbatches: int = 1
    one_hot: bool = False

    @property
    def rows(self) -> int:
        """Sequences of a device in one micro-batch."""
        return self.data.batch_size // self.microbatches // self.mesh.ways("batch")

    @functools.cached_property
    def element(self) -> int:
        """Bytes of an element in the compute dtype."""
        return _BFLOAT16 if self.model.compute_dtype == "bfloat16" else _FLOAT32

    def routed(self, layer: SwitchLayer, length: int) -> tuple[int, int, int]:
        """Groups of a device, tokens of a group, and slots of a group: experts times capacity.

        Raises:
          UserError: the groups are not divisible by the number of batch shards.
        """
        batch = self.data.batch_size // self.microbatches
        groups, group_size = layer.groups(batch, length, self.mesh)
        slots = layer.num_experts * layer.router.capacity(group_size, training=True)
        return groups // self.mesh.ways("batch"), group_size, slots

    def parts(self) -> list[Part]:
        """The parts of a step, in order.

        Raises:
          UserError: the layout is none that can be planned, or sizes do not fit it.
        """
        check_layout(self.mesh)
        return [*self._parts()]

    def _parts(self) -> Iterator[Part]:
        model, lengths = self.model, self.data.task_feature_lengths
        number = 0
        inputs, targets = lengths["inputs"], lengths["targets"]
        for stack, length in ((model.encoder, inputs), (model.decoder, targets)):
            yield self._embedding(length)
            for block in stack.blocks:
                own = block.self_attention.layer
                found = [self._attention(own, length, length)]
                if block.cross_attention is not None:
                    crossing = block.cross_attention.layer
                    found.append(self._attention(crossing, length, inputs))
                layer = block.feed_forward.layer
                _check_layer(layer)
                make = self._switch if isinstance(layer, SwitchFFN) else self._dense
                found.append(make(layer, length))
                yield from (dataclasses.replace(part, block=number) for part in found)
                number += 1
            yield self._final(length, stack is model.encoder)
        yield self._loss(targets)

    def _over(self, axis: str) -> str | None:
        """The mesh dimension of several devices that shards an axis, if there is one."""
        return self.mesh.rules[axis] if self.mesh.ways(axis) > 1 else None

    def _sum(
        self, axis: str, elements: int, forward: int, backward: int, again: int = 0
    ) -> tuple[Exchange, ...]:
        """The all-reduces of a sum over an axis, if a mesh dimension shards it."""
        over = self._over(axis)
        if over is None:
            return ()
        return (Exchange("all-reduce", over, elements, _REDUCED, forward, backward, again),)

    @property
    def block_inputs(self) -> int:
        """Bytes of the inputs of all blocks, which are kept whatever is made again."""
        model, lengths = self.model, self.data.task_feature_lengths
        tokens = self.rows * sum(lengths.values())
        return model.num_layers * tokens * model.d_model * self.element

    @property
    def logits_bytes(self) -> int:
        """Bytes of the logits, float32."""
        vocab = self.model.vocab_size // self.mesh.ways("vocab")
        return self.rows * self.data.task_feature_lengths["targets"] * vocab * _FLOAT32

    def _embedding(self, length: int) -> Part:
        model, tokens = self.model, self.rows * length
        if self._over("vocab") is None:
            return Part("embedding")
        vocab = model.vocab_size // self.mesh.ways("vocab")
        flops = 2 * tokens * vocab * model.d_model
        return Part(
            "embedding",
            flops,
            flops,
            kept=tokens * vocab * self.element,
            exchanges=self._sum("vocab", tokens * model.d_model, 1, 0),
        )

    def _norm(self, tokens: int) -> int:
        """Bytes that a norm keeps: in float32 its input, the root, and the product of both."""
        return tokens * _FLOAT32 * (2 * self.model.d_model + 1)

    def _attention(self, layer, length: int, memory_length: int) -> Part:
        model, tokens, memory = self.model, self.rows * length, self.rows * memory_length
        heads = layer.num_heads // self.mesh.ways("heads")
        width, pairs = heads * layer.d_kv, tokens * memory_length * heads
        inner = [self._switch(one, length) for one in layer.switch_layers]
        # Of queries, keys and logits; the weights are kept twice if they are rounded or dropped.
        exact = _FLOAT32 if layer.float32_logits else self.element
        kept = self._norm(tokens) + tokens * model.d_model * self.element
        # Queries and what is attended, keys and values.
        kept += width * (tokens + memory) * (exact + self.element)
        twice = exact > self.element or layer.dropout_rate > 0
        kept += pairs * (exact * twice + self.element)
        # Of Switch attention, only the output's is not an expert's.
        projected = tokens if inner else 2 * tokens + 2 * memory
        flops = 2 * model.d_model * width * projected + 2 * 2 * pairs * layer.d_kv
        exchanges = self._sum("heads", tokens * model.d_model, 1, 0 if inner else 1, 1)
        return Part(
            "attention",
            flops + sum(part.flops for part in inner),
            2 * flops + sum(part.backward_flops for part in inner),
            kept + sum(part.kept for part in inner),
            sum(part.buffers for part in inner),
            sum(part.passing for part in inner),
            exchanges + tuple(one for part in inner for one in part.exchanges),
        )

    def _dense(self, layer, length: int) -> Part:
        model, tokens = self.model, self.rows * length
        flops = self.rows * layer.flops(model.d_model, length) / self.mesh.ways("d_ff")
        hidden = tokens * layer.d_ff // self.mesh.ways("d_ff")
        kept = self._norm(tokens) + tokens * model.d_model * self.element
        # What is dropped of them has a mask that all positions share.
        kept += hidden * self.element * _hiddens(layer.activation, layer.dropout_rate)
        exchanges = self._sum("d_ff", tokens * model.d_model, 1, 1)
        return Part("feed forward", flops, 2 * flops, kept, exchanges=exchanges)

    def _switch(self, layer: SwitchLayer, length: int) -> Part:
        """A Switch layer: its router, its dispatcher and its experts."""
        model, (groups, group_size, slots) = self.model, self.routed(layer, length)
        tokens, all_slots = groups * group_size, groups * slots
        axis = layer.output_axis or "d_ff"
        width = layer.expert_width // self.mesh.ways(axis)
        output = width if layer.output_axis else model.d_model
        products = 2 * tokens * model.d_model * layer.num_experts
        products += 2 * all_slots * model.d_model * width
        flops, backward, kept = products, 2 * products, self._routing(layer, tokens)
        # The places of each choice: counted for each expert, and added up.
        choices = layer.router.experts_per_token
        passing = 2 * choices * _PLACING * tokens * layer.num_experts * _FLOAT32
        if self.one_hot:
            moved = 2 * tokens * slots
            flops += moved * (model.d_model + output)
            # No gradient with respect to which slot a token takes, but one to its gate.
            backward += moved * (model.d_model + 2 * output)
            # The slots of tokens, once with gates, and the experts and places that make them.
            places = layer.num_experts + slots // layer.num_experts
            kept += tokens * (2 * slots + places) * self.element
            # Those of each choice are made by themselves, and added up.
            passing += 2 * 2 * choices * tokens * slots * self.element
        if layer.output_axis is None:
            kept += self._norm(tokens)
            hidden = all_slots * layer.d_ff // self.mesh.ways(axis)
            rate = layer.expert_dropout_rate
            kept += hidden * self.element * (_hiddens(layer.activation, rate) + (rate > 0))
        buffers = all_slots * (model.d_model + output) * self.element
        forward = 0 if layer.output_axis else 1
        exchanges = self._sum(axis, all_slots * model.d_model, forward, 1, forward)
        over = self._over("experts")
        if over is not None:
            exchanges += tuple(
                Exchange("all-to-all", over, all_slots * wide, self.element, 1, 1, 1)
                for wide in (model.d_model, output)
            )
        return Part("Switch layer", flops, backward, kept, buffers, passing, exchanges)

    def _routing(self, layer: SwitchLayer, tokens: int) -> int:
        """Bytes that a router keeps, in float32: choices, probabilities, its input with its noise.

        And what a token has of each: whether it counts, whether it is kept, its gate and slot.
        """
        router, d_model = layer.router, self.model.d_model
        of_experts = (2 + bool(router.z_loss_coef)) * layer.num_experts
        noisy = router.policy in ("input_jitter", "input_dropout")
        return tokens * _FLOAT32 * (of_experts + (1 + noisy) * d_model + 4)

    def _final(self, length: int, is_encoder: bool) -> Part:
        """The norm behind a stack, and its position bias, whose gradient is that of all pairs.

        Behind the encoder also the gradient of its output, which all blocks of the decoder take.
        """
        tokens, d_model = self.rows * length, self.model.d_model
        kept = self._norm(tokens) + _BUCKETS * length * length * _FLOAT32
        pairs = length * length * self.model.num_heads // self.mesh.ways("heads")
        exchanges = self._sum("batch", pairs, 0, 1)
        if is_encoder:
            kept += tokens * d_model * self.element
            exchanges += self._sum("heads", tokens * d_model, 0, 1)
        return Part("norm", kept=kept, exchanges=exchanges)

    def _loss(self, targets: int) -> Part:
        model, tokens = self.model, self.rows * targets
        vocab = model.vocab_size // self.mesh.ways("vocab")
        flops = 2 * tokens * model.d_model * vocab
        exact = _FLOAT32 if model.float32_softmax_logits else self.element
        # Probabilities; where logits are spread, also which of them is the target's.
        over_vocab = 1 if self._over("vocab") is None else 2
        kept = tokens * (vocab * _FLOAT32 * over_vocab + model.d_model * exact)
        exchanges = self._sum("vocab", tokens * model.d_model, 0, 1)
        # The largest logit, the sum, the target's, and those that are larger.
        exchanges += self._sum("vocab", tokens, 4, 0)
        return Part("loss", flops, 2 * flops, kept, exchanges=exchanges)


# Tensors [tokens, experts] of a choice by which `routing.place` finds its place in a buffer.
_PLACING = 3
# Of relative positions.
_BUCKETS = 32


def _hiddens(activation: str, dropout_rate: float) -> int:
    """Tensors [tokens, d_ff] that the gradient of a feed-forward layer needs, without masks.

    Of GELU as TensorFlow computes it by tanh. Dropout adds its output; that of ReLU stays.
    """
    return 7 if activation == "geglu" else 1 + (dropout_rate > 0)


def _check_layer(layer) -> None:
    """Checks that a feed-forward layer is one whose tensors are known.

    Raises:
      UserError: it is one of the user's own.
    """
    if not isinstance(layer, SwitchFFN | FeedForward):
        raise UserError(
            f"--slice and --cores plan SwitchFFN and FeedForward, but {layer.path} is a "
            f"{type(layer).__name__}: leave TransformerEncoderDecoder.switch_ffn out to plan"
        )


def check_layout(mesh: Mesh) -> None:
    """Checks that the collectives of a layout are known: those of gin/layouts, and parts of them.

    Raises:
      UserError: it shards by another axis, or experts apart from the batch.
    """
    shards = [axis for axis in mesh.rules if mesh.ways(axis) > 1]
    odd = [axis for axis in shards if axis not in _SHARDED]
    if not odd and "experts" in shards and mesh.rules["experts"] != mesh.rules.get("batch"):
        odd = ["experts"]
    if odd:
        raise UserError(
            f"LAYOUT_RULES='{odd[0]}:{mesh.rules[odd[0]]}': --slice and --cores plan layouts that "
            f"shard {', '.join(_SHARDED)}, and experts as the batch: use a file of gin/layouts"
        )

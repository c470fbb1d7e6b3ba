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
from switch_tf.layers.switch_layer import SwitchLayer
from switch_tf.mesh import Mesh
from switch_tf.models.encoder_decoder import TransformerEncoderDecoder

_FLOAT32, _BFLOAT16 = 4, 2
# DTensor adds up in float32 over more than four devices, and on CPU over any number.
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
    """

    kind: str
    over: str
    elements: int
    element_bytes: int
    forward: int = 0
    backward: int = 0


@dataclasses.dataclass(frozen=True)
class Part:
    """What a layer, the embedding or the loss costs a device in one micro-batch.

    Attributes:
      name: what it is.
      flops, backward_flops: of its matrix products, 2 per multiply-add, in either pass.
      kept: bytes of activations that the backward pass needs, apart from `buffers`.
      buffers: bytes of the experts' buffers that it needs, which all-to-alls bring.
      exchanges: its collectives.
      block: the number of its block, whose activations `rematerialize` makes again; None outside.
    """

    name: str
    flops: float = 0.0
    backward_flops: float = 0.0
    kept: int = 0
    buffers: int = 0
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
                found = [self._attention(own, length, length, False)]
                if block.cross_attention is not None:
                    crossing = block.cross_attention.layer
                    found.append(self._attention(crossing, length, inputs, True))
                layer = block.feed_forward.layer
                make = self._switch if isinstance(layer, SwitchLayer) else self._dense
                found.append(make(layer, length))
                yield from (dataclasses.replace(part, block=number) for part in found)
                number += 1
        yield self._memory(inputs)
        yield self._loss(targets)

    def _over(self, axis: str) -> str | None:
        """The mesh dimension of several devices that shards an axis, if there is one."""
        return self.mesh.rules[axis] if self.mesh.ways(axis) > 1 else None

    def _sum(self, axis: str, elements: int, forward: int, backward: int) -> tuple[Exchange, ...]:
        """The all-reduces of a sum over an axis, if a mesh dimension shards it."""
        over = self._over(axis)
        if over is None:
            return ()
        return (Exchange("all-reduce", over, elements, _REDUCED, forward, backward),)

    @property
    def block_inputs(self) -> int:
        """Bytes of the inputs of all blocks, which are kept whatever is made again."""
        model, lengths = self.model, self.data.task_feature_lengths
        tokens = self.rows * sum(lengths.values())
        return model.num_layers * tokens * model.d_model * self.element

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
        """Bytes that a norm keeps: its input and its product with the root in float32."""
        return tokens * self.model.d_model * 2 * _FLOAT32

    def _attention(self, layer, length: int, memory_length: int, crosses: bool) -> Part:
        model, tokens, memory = self.model, self.rows * length, self.rows * memory_length
        width = layer.num_heads * layer.d_kv // self.mesh.ways("heads")
        pairs = tokens * memory_length * layer.num_heads // self.mesh.ways("heads")
        projected = model.d_model * width * 2
        products = 2 * 2 * pairs * layer.d_kv
        inner = [self._switch(one, length) for one in layer.switch_layers]
        kept = self._norm(tokens) + tokens * model.d_model * self.element
        # Queries, keys, values and what is attended, and the former two in float32.
        exact = _FLOAT32 if self.element == _BFLOAT16 and layer.float32_logits else 0
        kept += width * ((2 * tokens + 2 * memory) * self.element + (tokens + memory) * exact)
        # The weights of attention, before and after they are rounded.
        kept += pairs * (self.element + (exact or 0))
        flops = projected * ((tokens if inner else 2 * tokens) + (0 if inner else 2 * memory))
        flops += products
        exchanges = self._sum("heads", tokens * model.d_model, 1, 0 if inner else 1)
        return Part(
            "cross-attention" if crosses else "self-attention",
            flops + sum(part.flops for part in inner),
            2 * flops + sum(part.backward_flops for part in inner),
            kept + sum(part.kept for part in inner),
            sum(part.buffers for part in inner),
            exchanges + tuple(one for part in inner for one in part.exchanges),
        )

    def _dense(self, layer, length: int) -> Part:
        model, tokens = self.model, self.rows * length
        flops = self.rows * layer.flops(model.d_model, length) / self.mesh.ways("d_ff")
        hidden = tokens * layer.d_ff // self.mesh.ways("d_ff")
        kept = self._norm(tokens) + tokens * model.d_model * self.element
        kept += hidden * self.element * _hiddens(layer.activation)
        exchanges = self._sum("d_ff", tokens * model.d_model, 1, 1)
        return Part("feed forward", flops, 2 * flops, kept, exchanges=exchanges)

    def _switch(self, layer: SwitchLayer, length: int) -> Part:
        """A Switch layer: its router, its dispatcher and its experts."""
        model, (groups, group_size, slots) = self.model, self.routed(layer, length)
        tokens, all_slots, experts = groups * group_size, groups * slots, layer.num_experts
        axis = layer.output_axis or "d_ff"
        width = layer.expert_width // self.mesh.ways(axis)
        output = width if layer.output_axis else model.d_model
        routing = 2 * tokens * model.d_model * experts
        work = 2 * all_slots * model.d_model * width
        kept = tokens * experts * _FLOAT32 * _OF_ROUTER
        flops, backward = routing + work, 2 * (routing + work)
        if self.one_hot:
            moved = 2 * groups * group_size * slots
            flops += moved * (model.d_model + output)
            # No gradient with respect to which slot a token takes, but one to its gate.
            backward += moved * (model.d_model + 2 * output)
            choices = layer.router.experts_per_token
            kept += 2 * groups * group_size * slots * self.element * max(1, choices)
        if layer.output_axis is None:
            kept += self._norm(tokens) + tokens * model.d_model * self.element
            hidden = all_slots * layer.d_ff // self.mesh.ways(axis)
            kept += hidden * self.element * _hiddens(layer.activation)
        buffers = all_slots * (model.d_model + output) * self.element
        forward = 0 if layer.output_axis else 1
        exchanges = self._sum(axis, all_slots * model.d_model, forward, 1)
        over = self._over("experts")
        if over is not None:
            exchanges += tuple(
                Exchange("all-to-all", over, all_slots * wide, self.element, 1, 1)
                for wide in (model.d_model, output)
            )
        return Part("Switch layer", flops, backward, kept, buffers, exchanges)

    def _memory(self, inputs: int) -> Part:
        """The gradient of the encoder's output, which all blocks of the decoder attend to."""
        elements = self.rows * inputs * self.model.d_model
        return Part("memory", exchanges=self._sum("heads", elements, 0, 1))

    def _loss(self, targets: int) -> Part:
        model, tokens = self.model, self.rows * targets
        vocab = model.vocab_size // self.mesh.ways("vocab")
        flops = 2 * tokens * model.d_model * vocab
        kept = tokens * (vocab * _FLOAT32 * _OF_LOGITS + model.d_model * _FLOAT32)
        exchanges = self._sum("vocab", tokens * model.d_model, 0, 1)
        # The largest logit, the sum, the target's, and those that are larger.
        exchanges += self._sum("vocab", tokens, 4, 1)
        return Part("loss", flops, 2 * flops, kept, exchanges=exchanges)


# Tensors of the router [tokens, experts] in float32 that its gradient needs.
_OF_ROUTER = 4
# Those of the logits: probabilities, and their gradient, which is there at the same time.
_OF_LOGITS = 2


def _hiddens(activation: str) -> int:
    """Tensors [tokens, d_ff] that the gradient of a feed-forward layer needs."""
    return 7 if activation == "geglu" else 1


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

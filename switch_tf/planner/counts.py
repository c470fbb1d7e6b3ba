"""Parameters, FLOPs and bytes of a model that is not allocated (paper, Table 9)."""

import dataclasses
import math
from collections.abc import Callable

from switch_tf.layers.context import WeightDeclaration, declare_only
from switch_tf.mesh import Mesh
from switch_tf.models.encoder_decoder import TransformerEncoderDecoder
from switch_tf.optimizers.base import Optimizer

_FLOAT32_BYTES = 4


@dataclasses.dataclass(frozen=True)
class Counts:
    """Counts of a model and its optimizer.

    Attributes:
      model: the model, its weights declared but not allocated: it cannot be called.
      weights: the declarations of its weights.
    """

    model: TransformerEncoderDecoder
    weights: tuple[WeightDeclaration, ...]

    @classmethod
    def of(cls, make_model: Callable[[], TransformerEncoderDecoder]) -> "Counts":
        """Counts the model that a function makes."""
        with declare_only() as declared:
            model = make_model()
            model.build()
        return cls(model, tuple(declared))

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(math.prod(w.shape) for w in self.weights)

    @property
    def expert_parameters(self) -> int:
        """Number of parameters in the experts."""
        return sum(math.prod(w.shape) for w in self.weights if "experts" in w.axes)

    def flops(self, lengths: dict[str, int]) -> int:
        """Forward FLOPs per sequence: matrix products only, 2 per multiply-add.

        Args:
          lengths: tokens per sequence in "inputs" and "targets".
        """
        return self.model.flops(lengths["inputs"], lengths["targets"])

    def weight_bytes(self, mesh: Mesh) -> int:
        """Bytes of the float32 weights on each device.

        Raises:
          UserError: an axis is not divisible by its mesh dimension.
        """
        return sum(_bytes(w.shape, w.axes, mesh) for w in self.weights)

    def slot_bytes(
        self,
        mesh: Mesh,
        optimizer: Optimizer,
        is_trained: Callable[[str], bool] = lambda path: True,
    ) -> int:
        """Bytes of the optimizer's float32 slots on each device.

        Args:
          mesh: the mesh, which may be on paper.
          optimizer: the optimizer, which need not be built.
          is_trained: tells from a weight's path whether it is trained, and so has slots.
        """
        return sum(
            _bytes([w.shape[i] for i in kept], [w.axes[i] for i in kept], mesh)
            for w in self.weights
            if is_trained(w.path)
            for kept in optimizer.slot_axes(w.shape, w.axis_groups).values()
        )


def parts(axes, mesh: Mesh) -> int:
    """Number of shards of a tensor with these axis names."""
    return math.prod(mesh.ways(axis) for axis in axes)


def _bytes(shape, axes, mesh) -> int:
    return _FLOAT32_BYTES * math.prod(shape) // parts(axes, mesh)

"""The base layer: weights declared with axis names and sharded over the mesh in use."""

import dataclasses
import inspect
from collections.abc import Sequence

import keras
import tensorflow as tf
from tensorflow.experimental import dtensor

from switch_tf import mesh as mesh_lib
from switch_tf import rules
from switch_tf.errors import UserError
from switch_tf.layers.context import WeightDeclaration, current_build


@dataclasses.dataclass(frozen=True)
class UncastTensor:
    """Wraps a tensor that Keras must not cast.

    Keras casts every float tensor among a layer's arguments to the layer's compute dtype. Wrap one
    that has to stay float32 in a bfloat16 model. The wrapper is opaque to Keras, so it cannot be
    an input of a functional model.

    Attributes:
      tensor: tensor of any dtype and shape.
    """

    tensor: tf.Tensor


def configurable(layer_class):
    """Like `rules.configurable`, and also registers the layer so that Keras can save and load it.

    Keeps the signature of `__init__`, which Keras inspects at construction.
    """
    signature = inspect.signature(layer_class.__init__)
    layer_class = keras.saving.register_keras_serializable("switch_tf")(layer_class)
    layer_class = rules.configurable(layer_class)
    layer_class.__init__.__signature__ = signature
    return layer_class


def registered(name: str):
    """The class registered with Keras under `name`.

    Raises:
      UserError: no class is registered under the name.
    """
    found = keras.saving.get_registered_object(name)
    if found is None:
        raise UserError(
            f"Keras knows no class '{name}': decorate it with "
            "keras.saving.register_keras_serializable()"
        )
    return found


def lay_out(x, axes: Sequence[str | None]):
    """Lays `x` out over the mesh in use by its axis names; returns `x` itself if there is no mesh.

    In a compiled function, moving a mesh dimension from one axis to another is an all-to-all.
    """
    mesh = mesh_lib.current()
    return x if mesh is None else dtensor.relayout(x, mesh.layout(axes))


def exact_dtype(compute_dtype: str, is_exact: bool) -> str:
    """The layer's compute dtype, or float32 if that is bfloat16 and `is_exact` is set."""
    return "float32" if is_exact and compute_dtype == "bfloat16" else compute_dtype


def sizes(x) -> list:
    """The shape of x, with a scalar tensor for each dimension whose size Keras leaves open."""
    dynamic = None if None not in x.shape else tf.shape(x)
    return [dynamic[i] if size is None else size for i, size in enumerate(x.shape)]


class Layer(keras.layers.Layer):
    """A Keras layer whose weights name their axes.

    Subclasses create their weights in `build` with `weight` and read them in `call` with `read`.
    They also build their sub-layers in `build`, so that each variable's path, and therefore its
    initial value, is the same however the layer is used.
    """

    def compute_output_spec(self, *args, **kwargs):
        """Same as in Keras, but keeps the message of a UserError to its single line."""
        try:
            return super().compute_output_spec(*args, **kwargs)
        except UserError as error:
            # Keras puts a paragraph of its own in front of the message.
            raise UserError(str(error).rpartition("\n")[2]) from error

    def weight(
        self,
        name: str,
        shape: Sequence[int],
        axes: Sequence[str],
        initializer,
        merged: Sequence[str] = (),
    ):
        """Creates a float32 variable.

        Args:
          name: last part of the variable's path.
          shape: global shape.
          axes: an axis name for each dimension; the mesh's layout rules map them to devices.
          initializer: an initializer from `switch_tf.layers.initializers`.
          merged: adjacent axes that the optimizer treats as one, such as `heads` and `d_kv`, which
            are a single axis of the weight in Mesh-TensorFlow.

        Returns:
          `keras.Variable` with attributes `axes` and `axis_groups`, backed by a
          `dtensor.DVariable` if a mesh is in use, otherwise by a `tf.Variable`. Its `value` stays
          float32 inside `call`, so gradients of gathers and of sums over tokens add up in float32.

        Raises:
          UserError: an axis is not divisible by the size of its mesh dimension.
        """
        shape, axes, build = tuple(shape), tuple(axes), current_build()
        path = f"{self.path}/{name}"
        groups = _axis_groups(axes, merged)
        if build.declared is not None:
            build.declared.append(WeightDeclaration(path, shape, axes, groups))
            return build.declared[-1]
        mesh = mesh_lib.current()
        if mesh is None:
            everything = tuple(slice(0, n) for n in shape)
            value = initializer(build.seed, path, shape, everything)
        else:
            made = {}
            parts = []
            for part in mesh.local_places(axes, shape):
                key = str(part)
                if key not in made:
                    made[key] = tf.constant(initializer(build.seed, path, shape, part))
                parts.append(made[key])
            value = dtensor.DVariable(dtensor.pack(parts, mesh.layout(axes)), name=name)
        # Keras must not cast on access: `read` casts where that is wanted.
        variable = keras.Variable(value, name=name, autocast=False)
        variable.axes, variable.axis_groups = axes, groups
        return variable

    def read(self, variable):
        """The variable's value in the layer's compute dtype."""
        return tf.cast(variable.value, self.compute_dtype)


def _axis_groups(axes: tuple, merged: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Groups the dimensions: those in `merged` together, each other one by itself."""
    together = tuple(axes.index(name) for name in merged)
    return tuple(
        together if (i,) == together[:1] else (i,)
        for i in range(len(axes))
        if i not in together[1:]
    )

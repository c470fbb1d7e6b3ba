"""The base layer: weights declared with axis names, laid out over the mesh in use."""

import dataclasses
import inspect
from collections.abc import Sequence

import keras
import tensorflow as tf
from tensorflow.experimental import dtensor

from switch_tf import mesh as mesh_lib
from switch_tf import rules
from switch_tf.errors import UserError
from switch_tf.layers.context import Declared, current_build


@dataclasses.dataclass(frozen=True)
class Uncast:
    """A tensor that Keras hands to a layer as it is.

    Keras casts every float tensor among a layer's arguments to the layer's compute dtype; what has
    to stay float32 inside a bfloat16 model is wrapped in this. Opaque to Keras, so not for the
    inputs of a functional model.

    Attributes:
      tensor: of any dtype and shape.
    """

    tensor: tf.Tensor


def configurable(layer_class):
    """`rules.configurable` for Keras layers, which Keras can then save and load, too.

    It keeps the signature that Keras reads at construction.
    """
    signature = inspect.signature(layer_class.__init__)
    layer_class = keras.saving.register_keras_serializable("switch_tf")(layer_class)
    layer_class = rules.configurable(layer_class)
    layer_class.__init__.__signature__ = signature
    return layer_class


def registered(name: str):
    """The class that Keras knows by the name.

    Raises:
      UserError: none; so that a class of a user's own is not taken for ours.
    """
    found = keras.saving.get_registered_object(name)
    if found is None:
        raise UserError(
            f"Keras knows no class '{name}': decorate it with "
            "keras.saving.register_keras_serializable()"
        )
    return found


def lay_out(x, axes: Sequence[str | None]):
    """`x` laid out over the mesh in use by its axis names; `x` itself where there is no mesh.

    Inside a compiled function, moving one mesh dimension from an axis to another is an all-to-all.
    """
    mesh = mesh_lib.current()
    return x if mesh is None else dtensor.relayout(x, mesh.layout(axes))


def exact_dtype(compute_dtype: str, is_exact: bool) -> str:
    """The dtype of what is to be at least float32, where `is_exact`, in a layer."""
    return "float32" if is_exact and compute_dtype == "bfloat16" else compute_dtype


def sizes(x) -> list:
    """The shape of x; where Keras leaves a size open, as a scalar tensor."""
    dynamic = None if None not in x.shape else tf.shape(x)
    return [dynamic[i] if size is None else size for i, size in enumerate(x.shape)]


class Layer(keras.layers.Layer):
    """A Keras layer whose weights name their axes.

    Subclasses create weights in `build` with `weight`, build their sub-layers there too (so that
    every variable's path, and with it its initial value, is the same however the layer is used),
    and read them in `call` with `read`.
    """

    def compute_output_spec(self, *args, **kwargs):
        """As Keras's; a UserError stays the line that it is."""
        try:
            return super().compute_output_spec(*args, **kwargs)
        except UserError as error:
            # Keras writes a paragraph before it.
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
          name: last part of its path.
          shape: its whole shape.
          axes: an axis name for each dimension; the mesh's layout rules map them to devices.
          initializer: of `switch_tf.layers.initializers`.
          merged: neighbouring axes that count as one for the optimizer, as `heads` and `d_kv` do in
            Mesh-TensorFlow, where they are one axis of the weight.

        Returns:
          `keras.Variable` with attributes `axes` and `axis_groups`; over a `dtensor.DVariable`
          where a mesh is in use, over a `tf.Variable` where none is. Its `value` is float32 inside
          `call`, too: a gather from it, or a sum over tokens, has a gradient summed in float32.

        Raises:
          UserError: an axis does not divide over its mesh dimension.
        """
        shape, axes, build = tuple(shape), tuple(axes), current_build()
        path = f"{self.path}/{name}"
        groups = _axis_groups(axes, merged)
        if build.declared is not None:
            build.declared.append(Declared(path, shape, axes, groups))
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
        # Not cast by Keras on access: casts are made where they are wanted, by `read`.
        variable = keras.Variable(value, name=name, autocast=False)
        variable.axes, variable.axis_groups = axes, groups
        return variable

    def read(self, variable):
        """The variable's value in the layer's compute dtype."""
        return tf.cast(variable.value, self.compute_dtype)


def _axis_groups(axes: tuple, merged: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Dimensions one by one, those of `merged` together."""
    together = tuple(axes.index(name) for name in merged)
    return tuple(
        together if (i,) == together[:1] else (i,)
        for i in range(len(axes))
        if i not in together[1:]
    )

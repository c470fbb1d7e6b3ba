"""The base layer: weights declared with axis names and sharded over the mesh in use."""

import dataclasses
import functools
import inspect
import random
from collections.abc import Sequence

import keras
import tensorflow as tf
from tensorflow.experimental import dtensor

from switch_tf import mesh as mesh_lib
from switch_tf import rules, runtime
from switch_tf.errors import UserError
from switch_tf.layers.context import BuildContext, WeightDeclaration, current_build, weights_seed

# The inputs of a layer that takes each token by itself, for `check_axes`.
ROWS_OR_SEQUENCES = ("[batch, length, d_model]", "[batch, d_model]")


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

    In a compiled function, moving a mesh dimension from one axis to another is an all-to-all, which
    is of float32 where devices cannot exchange bfloat16.
    """
    mesh = mesh_lib.current()
    if mesh is None:
        return x
    layout = mesh.layout(axes)
    if x.dtype == tf.bfloat16 and runtime.lacks_bfloat16_collectives():
        return tf.cast(dtensor.relayout(tf.cast(x, tf.float32), layout), x.dtype)
    return dtensor.relayout(x, layout)


def wide_dtype(dtype: str) -> str:
    """float64 if the dtype is that, otherwise float32."""
    return "float64" if dtype == "float64" else "float32"


def exact_dtype(compute_dtype: str, is_exact: bool) -> str:
    """The layer's compute dtype, or float32 if that is bfloat16 and `is_exact` is set."""
    return "float32" if is_exact and compute_dtype == "bfloat16" else compute_dtype


def check_axes(layer: keras.layers.Layer, x, *most: str) -> None:
    """Checks the number of axes of a layer's input.

    Args:
      layer: the layer, for the error.
      x: its input.
      *most: the shapes that it takes, such as "[batch, length, d_model]".

    Raises:
      UserError: the input has another number of axes.
    """
    if x.shape.rank not in (shape.count(",") + 1 for shape in most):
        raise UserError(
            f"{type(layer).__name__} takes {' or '.join(most)}, but its input has "
            f"{x.shape.rank} axes: reshape it"
        )


def sizes(x) -> list:
    """The shape of x, with a scalar tensor for each dimension whose size Keras leaves open."""
    dynamic = None if None not in x.shape else tf.shape(x)
    return [dynamic[i] if size is None else size for i, size in enumerate(x.shape)]


class Layer(keras.layers.Layer):
    """A Keras layer whose weights name their axes.

    Subclasses create their weights in `build` with `weight` and read them in `call` with `read`.
    They also build their sub-layers in `build`, so that each variable's path, and therefore its
    initial value, is the same however the layer is used.

    Args:
      seed: seeds the initial weights of the layer and of those in it, so that layers of the same
        kind and seed start equal, as Keras's own do. If None, that of an outer layer does; if none
        has one, they are drawn as Keras draws them, so that `keras.utils.set_random_seed` seeds
        them, and on a mesh from seed 0.
      **kwargs: arguments of Keras's layer.
    """

    def __init__(self, *, seed: rules.Seed | None = None, **kwargs):
        super().__init__(**kwargs)
        rules.check(f"{type(self).__name__}.seed", seed, rules.Seed | None)
        self.seed = seed

    def __init_subclass__(cls, **kwargs):
        """Has the layer's seed hold where it is built."""
        super().__init_subclass__(**kwargs)
        if "build" in vars(cls):
            cls.build = _seeded(cls.build)

    def get_config(self):
        """Constructor arguments."""
        return super().get_config() | ({} if self.seed is None else {"seed": self.seed})

    def add_loss(self, loss):
        """Adds a loss as `keras.config.floatx()`, the type in which `fit` adds losses up.

        It adds them to that of `compile`, which has this type whatever the layers' policies.
        """
        super().add_loss(tf.nest.map_structure(_as_keras_adds_up, loss))

    def compute_output_spec(self, *args, **kwargs):
        """Calls the layer, so that what it refuses is refused, in the message's single line."""
        try:
            # Keras's own would take `compute_output_shape` at its word.
            return super(keras.layers.Layer, self).compute_output_spec(*args, **kwargs)
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
        """Creates a float32 variable, or a float64 one under such a policy.

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
          so inside `call`, so that gradients of gathers and of sums over tokens add up in float32.

        Raises:
          UserError: an axis is not divisible by the size of its mesh dimension.
        """
        shape, axes, build = tuple(shape), tuple(axes), current_build()
        path = f"{self.path}/{name}"
        groups = _axis_groups(axes, merged)
        if build.declared is not None:
            build.declared.append(WeightDeclaration(path, shape, axes, groups))
            return build.declared[-1]
        mesh, dtype = mesh_lib.current(), wide_dtype(self.variable_dtype)
        seed, named = _source_of_values(build, path)
        if mesh is None:
            everything = tuple(slice(0, n) for n in shape)
            value = initializer(seed, named, shape, everything).astype(dtype)
        else:
            made = {}
            parts = []
            for part in mesh.local_places(axes, shape):
                key = str(part)
                if key not in made:
                    made[key] = tf.constant(initializer(seed, named, shape, part), dtype)
                parts.append(made[key])
            value = dtensor.DVariable(dtensor.pack(parts, mesh.layout(axes)), name=name)
        # Keras must not cast on access: `read` casts where that is wanted.
        variable = keras.Variable(value, name=name, autocast=False)
        variable.axes, variable.axis_groups = axes, groups
        return variable

    def read(self, variable):
        """The variable's value in the layer's compute dtype."""
        return tf.cast(variable.value, self.compute_dtype)


def _as_keras_adds_up(loss):
    return tf.cast(loss, keras.config.floatx())


def _seeded(build):
    @functools.wraps(build)
    def seeded(self, *args, **kwargs):
        if self.seed is None:
            return build(self, *args, **kwargs)
        with weights_seed(self.seed, self.path):
            return build(self, *args, **kwargs)

    return seeded


def _source_of_values(build: BuildContext, path: str) -> tuple[int, str]:
    """The seed and the name from which a weight's initial values are made."""
    if build.seed is not None:
        return build.seed, path.removeprefix(build.root)
    if mesh_lib.current() is not None:
        # All processes of a mesh need the same.
        return 0, path
    # As Keras draws the seeds of its own initializers; a path would tell layers of one name, or of
    # names with a number that Keras adds, apart.
    return random.randrange(2**31), ""


def _axis_groups(axes: tuple, merged: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Groups the dimensions: those in `merged` together, each other one by itself."""
    together = tuple(axes.index(name) for name in merged)
    return tuple(
        together if (i,) == together[:1] else (i,)
        for i in range(len(axes))
        if i not in together[1:]
    )

"""Ambient context of layers while they are built and called: what no argument carries.

| context | holds | set by | read by |
| --- | --- | --- | --- |
| `mesh.use` | the mesh in use | commands, outermost | `lay_out`, `Layer.weight` |
| `BuildContext` | the seed of weights | `model_seed`, `weights_seed`: `build` | `Layer.weight` |
| | weights declared, not allocated | `declare_only`: plans, benches | `Layer.weight` |
| `CallContext` | routers' reports | `collect`, `inference_scope` | `SwitchLayer` |
| | whether routing is dropless | `dropless`, `inference_scope` | `Router.capacity` |
| | the noise seed | `step_seed`, `inference_scope` | `dropout.weights_seed` |
| | watched activations | `watch` | `see`: embedding, blocks, final norms |

Each function opens a context that changes only what it names and inherits the rest from the
enclosing one, so contexts nest in any order and the innermost wins. They take effect while Python
runs: eagerly, or while a compiled function is traced; the traced graph keeps what held then.

The backward pass is traced after the contexts of the forward pass have closed. `rematerialize`
calls layers again there, so it saves the `CallContext` and re-enters it, with a separate list for
the reports, which the forward pass has already made, and without watching activations.
"""

import contextlib
import dataclasses

import tensorflow as tf

from switch_tf.layers.routing import Report


@dataclasses.dataclass(frozen=True)
class WeightDeclaration:
    """A weight declared but not allocated.

    Attributes:
      path: path of the variable that would be allocated.
      shape: global shape.
      axes: an axis name for each dimension.
      axis_groups: dimensions, grouped where the optimizer treats several as one axis.
    """

    path: str
    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    axis_groups: tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True)
class BuildContext:
    """Context in which layers are built.

    Attributes:
      seed: seeds the initial weights; None if no layer or model that is being built has a seed.
      root: path of the layer whose seed it is, which makes no difference to its weights.
      declared: list that collects weights instead of allocating them; None allocates them.
    """

    seed: int | None = None
    root: str = ""
    declared: list[WeightDeclaration] | None = None


@dataclasses.dataclass(frozen=True)
class CallContext:
    """Context of one call of the model.

    Attributes:
      reports: list to which each Switch layer appends its `Report`; None sends losses to Keras.
      dropless: whether each expert has room for a whole group, so that no token is dropped.
      seed: int32 [2], seeds all noise; None draws a new seed for each layer.
      watched: list of (layer path, [batch] float32 sums of |activation|), in call order; None
        turns watching off.
    """

    reports: list[Report] | None = None
    dropless: bool = False
    seed: tf.Tensor | None = None
    watched: list[tuple[str, tf.Tensor]] | None = None


_builds = [BuildContext()]
_calls = [CallContext()]


@contextlib.contextmanager
def _pushed(stack, context):
    stack.append(context)
    try:
        yield context
    finally:
        stack.pop()


def current_build() -> BuildContext:
    """The innermost `BuildContext`."""
    return _builds[-1]


def current_call() -> CallContext:
    """The innermost `CallContext`."""
    return _calls[-1]


def enter(call: CallContext):
    """Makes `call` the context of layers called within, replacing the enclosing one; yields it."""
    return _pushed(_calls, call)


def model_seed(seed: int):
    """Weights created within it are initialised from `seed` and their paths."""
    return _pushed(_builds, dataclasses.replace(current_build(), seed=seed, root=""))


def weights_seed(seed: int, path: str):
    """Weights of a layer, built within it, are initialised from `seed` and their paths in it."""
    return _pushed(_builds, dataclasses.replace(current_build(), seed=seed, root=f"{path}/"))


@contextlib.contextmanager
def declare_only():
    """Layers built within it declare weights without allocating them; yields the list of these.

    This way a model of any size can be counted. It cannot be called.
    """
    with _pushed(_builds, dataclasses.replace(current_build(), declared=[])) as build:
        yield build.declared


@contextlib.contextmanager
def collect():
    """Yields a list to which every Switch layer called within it appends its `Report`."""
    with enter(dataclasses.replace(current_call(), reports=[])) as call:
        yield call.reports


def dropless(enabled: bool = True):
    """In layers called within it, each expert has room for a whole group: no token is dropped.

    Expert computation and all-to-all traffic grow by a factor of E / capacity_factor.
    """
    return enter(dataclasses.replace(current_call(), dropless=enabled))


def step_seed(seed):
    """Within it, noise is drawn from `seed`, an int32 tensor [2] that changes with each step."""
    return enter(dataclasses.replace(current_call(), seed=seed))


@contextlib.contextmanager
def watch():
    """Yields a list of (layer path, [batch] float32 sums of |activation|), in call order.

    Used to trace a non-finite loss to the first layer with a non-finite output.
    """
    with enter(dataclasses.replace(current_call(), watched=[])) as call:
        yield call.watched


def see(path: str, x_BLM) -> None:
    """Records a layer's output if a `watch` is open.

    Args:
      path: path of the layer.
      x_BLM: its output, [batch, length, d_model].
    """
    watched = current_call().watched
    if watched is not None:
        size_BLM = tf.abs(tf.cast(tf.stop_gradient(x_BLM), tf.float32))
        watched.append((path, tf.reduce_sum(size_BLM, axis=[1, 2])))


@contextlib.contextmanager
def inference_scope(dropless: bool = True):
    """Context for inference: evaluation, scoring and decoding. Yields the list of reports.

    The noise seed is fixed, so layers that draw noise draw the same at every call.

    Args:
      dropless: whether no token is dropped, so that the output for an example does not depend on
        the rest of the batch. If False, experts have their evaluation capacity.
    """
    seed = tf.zeros([2], tf.int32)
    call = dataclasses.replace(current_call(), reports=[], dropless=dropless, seed=seed)
    with enter(call):
        yield call.reports

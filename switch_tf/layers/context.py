"""What layers find around them while they are built and called, and no argument carries.

| context | holds | set by | read by |
| --- | --- | --- | --- |
| `mesh.use` | the mesh in use | commands, around all else | `lay_out`, `Layer.weight` |
| `BuildContext` | the model's seed | `model_seed`: the model's `build` | `Layer.weight` |
| | weights not allocated | `declare_only`: plans, benches | `Layer.weight` |
| `CallContext` | reports of routers | `collect`, `inference_scope` | `SwitchLayer` |
| | whether none is dropped | `dropless`, `inference_scope` | `Router.capacity` |
| | the seed of noise | `step_seed`, `inference_scope` | `dropout.layer_seed` |
| | watched activations | `watch` | `see`: embedding, blocks, last norms |

Each function opens a context that differs from the one around it in what it names alone, so they
nest in any order, and the innermost holds. They work while Python runs: eagerly, or while a
compiled function is traced; what is traced stays as it was then.

The backward pass is traced when the contexts of the forward pass are closed. `rematerialize`,
which calls layers there once more, therefore keeps the `CallContext` and enters it again, with a
list of its own for the reports, which were made before, and nothing watched.
"""

import contextlib
import dataclasses

import tensorflow as tf

from switch_tf.layers.routing import Report


@dataclasses.dataclass(frozen=True)
class Declared:
    """A weight declared but not allocated.

    Attributes:
      path: of the variable that it would be.
      shape: its whole shape.
      axes: an axis name for each dimension.
      axis_groups: the dimensions, those together that count as one for the optimizer.
    """

    path: str
    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    axis_groups: tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True)
class BuildContext:
    """What holds for the weights of layers that are built.

    Attributes:
      seed: of initial values.
      declared: to which weights are added in place of being made; None: they are made.
    """

    seed: int = 0
    declared: list[Declared] | None = None


@dataclasses.dataclass(frozen=True)
class CallContext:
    """What holds for one call of the model.

    Attributes:
      reports: to which each Switch layer appends its own; None: their losses go to Keras.
      dropless: whether experts have room for a whole group, so that no token is dropped.
      seed: int32 [2], of all noise; None: each layer's is drawn anew.
      watched: (layer path, [batch] float32 sums of |activation|), in call order; None: not wanted.
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
    """The innermost one."""
    return _builds[-1]


def current_call() -> CallContext:
    """The innermost one."""
    return _calls[-1]


def enter(call: CallContext):
    """Layers called within it find `call`, and nothing of what is around; yields it."""
    return _pushed(_calls, call)


def model_seed(seed: int):
    """Weights built within it are initialised from `seed` (0 outside)."""
    return _pushed(_builds, dataclasses.replace(current_build(), seed=seed))


@contextlib.contextmanager
def declare_only():
    """Layers built within it make no weights; yields the list of what they would make.

    So a model of any size can be counted. It cannot be called.
    """
    with _pushed(_builds, dataclasses.replace(current_build(), declared=[])) as build:
        yield build.declared


@contextlib.contextmanager
def collect():
    """Yields a list to which every Switch layer called within it appends its `Report`."""
    with enter(dataclasses.replace(current_call(), reports=[])) as call:
        yield call.reports


def dropless(enabled: bool = True):
    """Layers called within it give each expert room for its whole group: no token is dropped.

    Costs E / capacity_factor times the expert computation and all-to-all traffic.
    """
    return enter(dataclasses.replace(current_call(), dropless=enabled))


def step_seed(seed):
    """Within it, noise is drawn from `seed`, an int32 tensor [2] that differs by step."""
    return enter(dataclasses.replace(current_call(), seed=seed))


@contextlib.contextmanager
def watch():
    """Yields a list of (layer path, [batch] float32 sums of |activation|), in call order.

    A loss that is not finite is traced by it to the first layer that is not.
    """
    with enter(dataclasses.replace(current_call(), watched=[])) as call:
        yield call.watched


def see(path: str, x_BLM) -> None:
    """Adds a layer's output to the open `watch`, if there is one.

    Args:
      path: the layer's.
      x_BLM: [batch, length, d_model].
    """
    watched = current_call().watched
    if watched is not None:
        size_BLM = tf.abs(tf.cast(tf.stop_gradient(x_BLM), tf.float32))
        watched.append((path, tf.reduce_sum(size_BLM, axis=[1, 2])))


@contextlib.contextmanager
def inference_scope(dropless: bool = True):
    """For calls whose outputs are wanted, not gradients: evaluation, scores, decoding.

    Layers that draw do so alike at every call. Yields the list of reports.

    Args:
      dropless: whether no token is dropped, so that an output does not depend on what else is in
        the batch. False: experts have their evaluation capacity.
    """
    seed = tf.zeros([2], tf.int32)
    call = dataclasses.replace(current_call(), reports=[], dropless=dropless, seed=seed)
    with enter(call):
        yield call.reports

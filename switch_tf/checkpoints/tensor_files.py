"""Tensors in TensorFlow's checkpoint format, written and read shard by shard.

Each device's part of a sharded variable is a slice of one named tensor in the file, so nothing is
gathered, a mesh of another shape reads the slices that it needs, and `tf.train.load_checkpoint`
reads the tensors whole, without DTensor.
"""

from collections.abc import Mapping

import tensorflow as tf
from tensorflow.experimental import dtensor
from tensorflow.python.training import py_checkpoint_reader

from switch_tf import mesh as mesh_lib


def write(prefix: str, variables: Mapping[str, tf.Variable]) -> None:
    """Writes the values of variables.

    Args:
      prefix: path of the file, without TensorFlow's endings.
      variables: name in the file -> variable, over a mesh or not.
    """
    names, slices, tensors = [], [], []
    for name, variable in variables.items():
        for place, part in mesh_lib.local_shards(variable):
            names.append(name)
            slices.append(_slice(variable.shape, place))
            tensors.append(part)
    with mesh_lib.host():
        tf.raw_ops.SaveV2(
            prefix=prefix, tensor_names=names, shape_and_slices=slices, tensors=tensors
        )


def read(prefix: str, variables: Mapping[str, tf.Variable]) -> None:
    """Sets variables to what `write` wrote, whatever mesh it was written from.

    Args:
      prefix: as for `write`.
      variables: name in the file -> variable of that shape.
    """
    for name, variable in variables.items():
        layout = getattr(variable, "layout", None)
        if layout is None:
            everything = tuple(slice(0, n) for n in variable.shape)
            variable.assign(_read(prefix, name, variable, everything))
            continue
        read_already = {}
        parts = []
        for place in mesh_lib.local_places(variable):
            key = str(place)
            if key not in read_already:
                read_already[key] = _read(prefix, name, variable, place)
            parts.append(read_already[key])
        variable.assign(dtensor.pack(parts, layout))


def reader(prefix: str):
    """What `tf.train.load_checkpoint` returns: names, shapes and values of all tensors.

    That one asks first whether `prefix` is a folder, for which ram:// takes the start of any path.

    Args:
      prefix: as for `write`.
    """
    return py_checkpoint_reader.NewCheckpointReader(prefix)


def _read(prefix, name, variable, place):
    with mesh_lib.host():
        (value,) = tf.raw_ops.RestoreV2(
            prefix=prefix,
            tensor_names=[name],
            shape_and_slices=[_slice(variable.shape, place)],
            dtypes=[variable.dtype],
        )
    return value


def _slice(shape, place) -> str:
    """TensorFlow's notation: the whole shape, then start,length of each axis."""
    if not place:
        return ""
    extents = ":".join(f"{part.start},{part.stop - part.start}" for part in place)
    return " ".join(str(size) for size in shape) + " " + extents

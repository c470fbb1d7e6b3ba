"""Tensors in TensorFlow's checkpoint format, written and read shard by shard.

Each shard of a variable is a slice of one named tensor in the file, so nothing is gathered, a mesh
of another shape reads just the slices it needs, and `tf.train.load_checkpoint` reads the tensors
unsharded, without DTensor. Of several hosts, each writes the shards of its devices to a file of its
own, and the chief merges the lists of what is in them.
"""

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf
from tensorflow.experimental import dtensor
from tensorflow.python.training import py_checkpoint_reader

from switch_tf import mesh as mesh_lib
from switch_tf import runtime, storage
from switch_tf.hosts import agreement


class Tensors(NamedTuple):
    """What a host writes to a file: of each tensor its name, its slice of the whole, its value."""

    names: list[str]
    slices: list[str]
    values: list[tf.Tensor]


def own(variables: Mapping[str, tf.Variable], dtype: tf.DType | None = None) -> Tensors:
    """This host's part of the values of variables, as they are now.

    On CPU a value shares its memory with the variable until that is updated.

    Args:
      variables: name in the file -> variable, on a mesh or not; what is on none is the chief's.
      dtype: what values are rounded to; by default they are of the variables' own.
    """
    found = Tensors([], [], [])
    for name, variable in variables.items():
        for place, part in mesh_lib.own_shards(variable):
            with mesh_lib.host():
                value = tf.identity(part) if dtype is None else tf.cast(part, dtype)
            of_part = name, _slice(variable.shape, place), value
            for every, one in zip(found, of_part, strict=True):
                every.append(one)
    return found


def write_part(prefix: str, part: Tensors) -> None:
    """Writes this host's part, which `join` makes a whole file with those of the others.

    Args:
      prefix: see `write`.
      part: the result of `own`.
    """
    # A host whose devices hold only copies has nothing to write.
    if part.names:
        path = agreement.parts(prefix)[runtime.host_index()]
        with mesh_lib.host():
            tf.raw_ops.SaveV2(
                prefix=path,
                tensor_names=part.names,
                shape_and_slices=part.slices,
                tensors=part.values,
            )


def join(prefix: str) -> None:
    """Makes one file of the parts of all hosts, which all call it.

    Args:
      prefix: see `write`.
    """
    parts = agreement.parts(prefix)
    agreement.barrier("the parts of a checkpoint are written")
    if len(parts) > 1 and runtime.is_chief():
        written = [part for part in parts if storage.exists(f"{part}.index")]
        with mesh_lib.host():
            tf.raw_ops.MergeV2Checkpoints(
                checkpoint_prefixes=written, destination_prefix=prefix, delete_old_dirs=False
            )


def write(prefix: str, variables: Mapping[str, tf.Variable], dtype: tf.DType | None = None) -> None:
    """Writes the values of variables; of several hosts, all call it.

    Args:
      prefix: the path of the file, without TensorFlow's suffixes.
      variables, dtype: see `own`.
    """
    write_part(prefix, own(variables, dtype))
    join(prefix)


def read(prefix: str, variables: Mapping[str, tf.Variable]) -> None:
    """Restores variables written by `write`, from whatever mesh, also rounded to another dtype.

    Args:
      prefix: see `write`.
      variables: name in the file -> variable of the same shape.
    """
    dtypes = reader(prefix).get_variable_to_dtype_map()

    def read_slice(name, variable, place):
        stored = dtypes.get(name, variable.dtype)
        rounded = stored.is_floating and variable.dtype.is_floating
        value = _read(prefix, name, variable, place, stored if rounded else variable.dtype)
        with mesh_lib.host():
            return tf.cast(value, variable.dtype)

    for name, variable in variables.items():
        layout = getattr(variable, "layout", None)
        if layout is None:
            everything = tuple(slice(0, n) for n in variable.shape)
            variable.assign(read_slice(name, variable, everything))
            continue
        read_already = {}
        parts = []
        for place in mesh_lib.local_places(variable):
            key = str(place)
            if key not in read_already:
                read_already[key] = read_slice(name, variable, place)
            parts.append(read_already[key])
        variable.assign(dtensor.pack(parts, layout))


def reader(prefix: str):
    """A `tf.train.load_checkpoint` reader: names, shapes and values of all tensors.

    `load_checkpoint` itself first tests whether `prefix` is a folder, which ram:// affirms for the
    start of any path.

    Args:
      prefix: see `write`.
    """
    return py_checkpoint_reader.NewCheckpointReader(prefix)


def _read(prefix, name, variable, place, dtype):
    with mesh_lib.host():
        (value,) = tf.raw_ops.RestoreV2(
            prefix=prefix,
            tensor_names=[name],
            shape_and_slices=[_slice(variable.shape, place)],
            dtypes=[dtype],
        )
    return value


def _slice(shape, place) -> str:
    """A slice in TensorFlow's notation: the full shape, then start,length for each axis."""
    if not place:
        return ""
    extents = ":".join(f"{part.start},{part.stop - part.start}" for part in place)
    return " ".join(str(size) for size in shape) + " " + extents

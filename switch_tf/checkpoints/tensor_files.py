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


def own(variables: Mapping[str, tf.Variable]) -> Tensors:
    """This host's part of the values of variables, as they are now.

    On CPU a value shares its memory with the variable until that is updated.

    Args:
      variables: name in the file -> variable, on a mesh or not; what is on none is the chief's.
    """
    found = Tensors([], [], [])
    for name, variable in variables.items():
        for place, part in mesh_lib.own_shards(variable):
            with mesh_lib.host():
                value = tf.identity(part)
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


def write(prefix: str, variables: Mapping[str, tf.Variable]) -> None:
    """Writes the values of variables; of several hosts, all call it.

    Args:
      prefix: the path of the file, without TensorFlow's suffixes.
      variables: see `own`.
    """
    write_part(prefix, own(variables))
    join(prefix)


def read(prefix: str, variables: Mapping[str, tf.Variable]) -> None:
    """Restores variables written by `write`, from whatever mesh.

    Args:
      prefix: see `write`.
      variables: name in the file -> variable of the same shape.
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
    """A `tf.train.load_checkpoint` reader: names, shapes and values of all tensors.

    `load_checkpoint` itself first tests whether `prefix` is a folder, which ram:// affirms for the
    start of any path.

    Args:
      prefix: see `write`.
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
    """A slice in TensorFlow's notation: the full shape, then start,length for each axis."""
    if not place:
        return ""
    extents = ":".join(f"{part.start},{part.stop - part.start}" for part in place)
    return " ".join(str(size) for size in shape) + " " + extents

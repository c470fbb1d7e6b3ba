"""Tensors in TensorFlow's checkpoint format, written and read shard by shard.

Each shard of a variable is a slice of one named tensor in the file, so nothing is gathered, a mesh
of another shape reads just the slices it needs, and `tf.train.load_checkpoint` reads the tensors
unsharded, without DTensor. Of several hosts, each writes the shards of its devices to a file of its
own, and the chief merges the lists of what is in them.
"""

from collections.abc import Mapping

import tensorflow as tf
from tensorflow.experimental import dtensor
from tensorflow.python.training import py_checkpoint_reader

from switch_tf import mesh as mesh_lib
from switch_tf import runtime, storage
from switch_tf.hosts import agreement


def write(prefix: str, variables: Mapping[str, tf.Variable]) -> None:
    """Writes the values of variables; of several hosts, all call it.

    Args:
      prefix: the path of the file, without TensorFlow's suffixes.
      variables: name in the file -> variable, on a mesh or not; what is on none is the chief's.
    """
    names, slices, tensors = [], [], []
    for name, variable in variables.items():
        for place, part in mesh_lib.own_shards(variable):
            names.append(name)
            slices.append(_slice(variable.shape, place))
            tensors.append(part)
    parts = agreement.parts(prefix)
    with mesh_lib.host():
        if names:
            own = parts[runtime.host_index()]
            tf.raw_ops.SaveV2(
                prefix=own, tensor_names=names, shape_and_slices=slices, tensors=tensors
            )
        agreement.barrier("the parts of a checkpoint are written")
        if len(parts) > 1 and runtime.is_chief():
            # A host whose devices hold only copies has written nothing.
            written = [part for part in parts if storage.exists(f"{part}.index")]
            tf.raw_ops.MergeV2Checkpoints(
                checkpoint_prefixes=written, destination_prefix=prefix, delete_old_dirs=False
            )


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

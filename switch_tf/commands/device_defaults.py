"""What DEVICE_TYPE='TPU' makes of settings that a user leaves to the project's gin files.

Those of gin/models and gin/layouts are for CPU devices: small models compute in float32, and meshes
have eight devices.
"""

import math
import os
from collections.abc import Sequence

from switch_tf import accelerators, configurables, gin_files
from switch_tf import mesh as mesh_lib
from switch_tf.commands.given import Given
from switch_tf.gin_files import Statement

_WHERE = "DEVICE_TYPE='TPU'"
_DTYPE = f"{configurables.MODEL}.dtype"
_MESH = "ModelSetup.mesh_shape"


def dtype_of_device(files: Sequence[str], bindings: Sequence[str]) -> list[Statement]:
    """bfloat16 for TPU devices, in place of the float32 of a file in gin/models.

    Nothing for other devices, nor in place of what a user or a checkpoint's run says.

    Args:
      files, bindings: see `config.precheck`; `bindings` has what is taken from runs, too.
    """
    given = Given(files, bindings)
    is_open = _is_on_tpu(given) and _is_open(given, _DTYPE, "models")
    if not is_open or given.values.get(_DTYPE) == "bfloat16":
        return []
    return [_statement(given, _DTYPE, "bfloat16")]


def mesh_of_slice(files: Sequence[str], bindings: Sequence[str], hosts: int) -> list[Statement]:
    """A mesh of all TPU devices, as such meshes have to be, in place of one of gin/layouts.

    Its first dimension is as large as the others leave it. Nothing where a user gives a mesh, and
    where this machine has no TPU.

    Args:
      files, bindings: see `config.precheck`.
      hosts: number of hosts, each with as many devices as this machine.
    """
    given, tpu = Given(files, bindings), accelerators.tpu()
    if tpu is None or not _is_on_tpu(given) or not _is_open(given, _MESH, "layouts"):
        return []
    text = given.values.get(_MESH, "batch:1")
    wanted = _of_all(text, hosts * tpu.devices)
    return [] if wanted == text else [_statement(given, _MESH, wanted)]


def _is_on_tpu(given: Given) -> bool:
    return given.values.get("DEVICE_TYPE") == "TPU"


def _is_open(given: Given, parameter: str, folder: str) -> bool:
    """Whether only gin files of a folder of the project give a parameter a value, if any."""
    if given.is_by_user(parameter):
        return False
    key = given.keys.get(parameter)
    name = given.settings.origin(key)[0] if key else None
    inside = os.path.join(gin_files.GIN_FOLDER, folder, "")
    return all(
        os.path.abspath(setting.where).startswith(inside)
        for part in given.settings.files
        for each, setting in part.entries().items()
        if gin_files.written(each) in (name, parameter) and setting.value != gin_files.REQUIRED
    )


def _of_all(text: str, devices: int) -> str:
    """A mesh's shape with another size of its first dimension, if that makes it one of all devices.

    Otherwise it is as it was, which the checks then refuse.
    """
    shape = mesh_lib.parse_mesh_shape(text)
    first, *others = shape
    rest = math.prod(shape[name] for name in others)
    if devices % rest:
        return text
    shape[first] = devices // rest
    return ",".join(f"{name}:{size}" for name, size in shape.items())


def _statement(given: Given, parameter: str, value: str) -> Statement:
    """Gives a parameter a value, by the macro that the files set it by."""
    name = parameter
    if key := given.keys.get(parameter):
        name = given.settings.origin(key)[0]
    return Statement(f"{name} = {gin_files.text(value)}", _WHERE)

"""TPUs and GPUs: what a machine has, and what TensorFlow needs in order to use them.

Most of it needs no TensorFlow. It follows from TensorFlow's sources and documents, and its tests
use stubs: there was no accelerator to run it on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.metadata
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from switch_tf.errors import UserError

# Linux lists the devices of a machine here, each with its vendor and kind.
_PCI = Path("/sys/bus/pci/devices")
_GPU = Path("/dev/nvidia0")
_GOOGLE = "0x1ae0"
# libtpu's lock of the chips, which one process at a time can have, and its logs.
_TPU_LOCK = Path("/tmp/libtpu_lockfile")
_TPU_LOGS = Path("/tmp/tpu_logs")
# PCI device -> generation, devices that TensorFlow makes of a chip, whether these are two cores.
_GENERATIONS = {
    "0x0027": ("v2 or v3", 2, False),
    "0x005e": ("v4", 1, True),
    "0x0062": ("v5p", 1, True),
    "0x0063": ("v5e", 1, False),
    "0x006f": ("v6e", 1, False),
}
# Restrict a process to some of the chips.
_VISIBLE = ("TPU_VISIBLE_CHIPS", "TPU_VISIBLE_DEVICES")

# Packages that hold the module `tensorflow`.
_PACKAGES = ("tensorflow", "tensorflow-tpu", "tensorflow-cpu", "tensorflow-rocm", "tf-nightly")
# The version in requirements-tpu.txt. With 0.0.52 the import of tensorflow-tpu ends the process.
_LIBTPU = "0.0.14"
_LIBRARY = "TF_PLUGGABLE_DEVICE_LIBRARY_PATH"
_XLA_FLAGS = (
    "--tf_mlir_enable_mlir_bridge=true "
    "--tf_mlir_enable_convert_control_to_data_outputs_pass=true "
    "--tf_mlir_enable_merge_control_flow_pass=true"
)
_SET_UP = "set up with SWITCH_TF_LOCK=tpu"


@dataclasses.dataclass(frozen=True)
class Tpu:
    """The TPU chips of this machine.

    Attributes:
      generation: such as "v4".
      chips: number of chips.
      devices: number of devices that TensorFlow makes of them. A chip of v2 and v3 has two cores,
        each a device; one of v5e and v6e has one core.
      has_megacore: whether the two cores of a chip are one device, as on v4 and v5p.
    """

    generation: str
    chips: int
    devices: int
    has_megacore: bool

    def __str__(self) -> str:
        return f"{self.chips} TPU {self.generation} chip{'s' * (self.chips > 1)}"


def tpu() -> Tpu | None:
    """The TPU chips of this machine that its process may use; None if it has none.

    Chips of later generations than v6e are not known, and TensorFlow 2.20 is older than they are.
    """
    found = [kind for kind in _pci_devices() if kind in _GENERATIONS]
    if not found:
        return None
    visible = next((text for text in map(os.environ.get, _VISIBLE) if text), None)
    chips = len(visible.split(",")) if visible else len(found)
    generation, per_chip, has_megacore = _GENERATIONS[found[0]]
    return Tpu(generation, chips, chips * per_chip, has_megacore)


def _pci_devices() -> Iterator[str]:
    """The kinds of Google's PCI devices in this machine."""
    for folder in _PCI.glob("*"):
        with contextlib.suppress(OSError):
            if (folder / "vendor").read_text().strip() == _GOOGLE:
                yield (folder / "device").read_text().strip()


def tensorflow_packages() -> dict[str, str]:
    """The installed packages that hold the module `tensorflow`, and their versions."""
    return {name: version for name in _PACKAGES if (version := _version(name))}


def _version(package: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


def _installed() -> str:
    """What holds the module `tensorflow`, for messages."""
    found = " and ".join(" ".join(pair) for pair in tensorflow_packages().items())
    return found or "an unknown package"


def environment(device_type: str, before: Mapping[str, str]) -> dict[str, str]:
    """Variables of the environment that have to be set before TensorFlow is imported.

    What the user has set stays: on v2 to v4 with the stream executor in place of PJRT, that is
    NEXT_PLUGGABLE_DEVICE_USE_C_API=false.

    Args:
      device_type: see `runtime.start`.
      before: the environment.
    """
    wanted = {}
    if device_type == "TPU":
        wanted = {"PJRT_DEVICE": "TPU", "NEXT_PLUGGABLE_DEVICE_USE_C_API": "true"}
        if _LIBRARY not in before:
            # check_machine has seen that it is there.
            wanted[_LIBRARY] = importlib.import_module("libtpu").get_library_path()
    elif tpu() is None:
        # The import of tensorflow-tpu would ask for a TPU's metadata, and wait minutes for them.
        wanted = {"TPU_SKIP_MDS_QUERY": "1"}
    if device_type == "GPU":
        wanted["DTENSOR_GPU_USE_NCCL_COMMUNICATION"] = "1"
    if device_type != "CPU":
        # SeqIO and clu bring JAX, which must not take the devices.
        wanted["JAX_PLATFORMS"] = "cpu"
    found = {name: value for name, value in wanted.items() if name not in before}
    if device_type == "TPU":
        # Of flags that are there twice, the last one counts.
        found["TF_XLA_FLAGS"] = f"{_XLA_FLAGS} {before.get('TF_XLA_FLAGS', '')}".strip()
    return found


def check_machine(device_type: str) -> None:
    """Checks before the import of TensorFlow that the machine and libtpu are as it needs them.

    Raises:
      UserError: there is no TPU for DEVICE_TYPE='TPU', or the import would end the process.
    """
    if device_type == "TPU" and tpu() is None:
        raise UserError(
            "DEVICE_TYPE='TPU': no TPU device on this machine; leave it out for CPU devices"
        )
    # A user's own is not of the lock.
    if "tensorflow-tpu" not in tensorflow_packages() or _LIBRARY in os.environ:
        return
    found = _version("libtpu")
    if found != _LIBTPU:
        raise UserError(
            f"tensorflow-tpu works with libtpu {_LIBTPU}, but "
            + (f"{found} is installed" if found else "libtpu is not installed")
            + f": {_SET_UP}, or pip install libtpu=={_LIBTPU}"
        )


def check_build(device_type: str) -> None:
    """Checks after the import of TensorFlow that its build is one for the devices.

    Raises:
      UserError: it is not; the message names the installed package.
    """
    if device_type == "TPU" and not is_tpu_build():
        raise UserError(
            f"DEVICE_TYPE='TPU': the module tensorflow is that of {_installed()}, which cannot use "
            f"the {tpu()} of this machine: {_SET_UP}; tensorflow and tensorflow-tpu must not be "
            "installed side by side"
        )
    if device_type == "GPU" and not _has_cuda():
        raise UserError(
            f"DEVICE_TYPE='GPU': the module tensorflow is that of {_installed()}, which cannot use "
            "GPUs: set up without SWITCH_TF_LOCK"
        )


def unused(device_type: str) -> list[str]:
    """A line for the user of a run, once TensorFlow is there, if the machine has an unused TPU."""
    found = tpu()
    if device_type == "TPU" or found is None:
        return []
    mend, what = "set DEVICE_TYPE='TPU'", ""
    if not is_tpu_build():
        what = f"; the module tensorflow is that of {_installed()}"
        mend = f"{_SET_UP}, and {mend}"
    return [
        f"DEVICE_TYPE='{device_type}' does not use the {found} of this machine{what}: for TPU, "
        + mend
    ]


def no_device(device_type: str) -> str:
    """The line of an error where TensorFlow lists no device of a type."""
    told = f"DEVICE_TYPE='{device_type}': "
    if device_type == "GPU" and _GPU.exists():
        version = tensorflow_packages().get("tensorflow", "2.20.0")
        return (
            f"{told}this machine has a GPU, but TensorFlow cannot load what it needs for it: pip "
            f"install 'tensorflow[and-cuda]=={version}', and see that the driver is recent enough"
        )
    if device_type == "TPU" and (found := tpu()):
        lock = f", and {_TPU_LOCK} is there" if _TPU_LOCK.exists() else ""
        return (
            f"{told}this machine has {found}, but TensorFlow can use none{lock}: one process at a "
            "time has them, so see whether another one runs (sudo lsof -w /dev/accel* /dev/vfio/*) "
            f"and end it; if none does, remove {_TPU_LOCK} where one is left; what libtpu says is "
            f"above and in {_TPU_LOGS}"
        )
    return f"{told}no {device_type} device on this machine; leave it out for CPU devices"


def is_tpu_build() -> bool:
    """Whether the module `tensorflow` has what starts a TPU, whichever package it is of."""
    from tensorflow.python.framework import kernels

    return bool(kernels.get_registered_kernels_for_op("ConfigureAndInitializeGlobalTPU").kernel)


def _has_cuda() -> bool:
    import tensorflow as tf

    return tf.test.is_built_with_cuda()


def own_gpus(physical: list, count: int, environment: Mapping[str, str]) -> list | None:
    """The GPUs of this process, of those that TensorFlow lists.

    A launcher may show each process its own GPUs only, as `srun --gpus-per-task=1` does. Where it
    shows all to all, the hosts of a machine take equal parts of them in their order.

    Args:
      physical: the GPUs that TensorFlow lists.
      count: how many the process needs.
      environment: has DTensor's variables, if there are several hosts.

    Returns:
      The GPUs; None if there are too few.
    """
    hosts = environment.get("DTENSOR_JOBS", "").split(",")
    machines = [host.rpartition(":")[0] for host in hosts]
    index = int(environment.get("DTENSOR_CLIENT_ID", "0"))
    first = machines[:index].count(machines[index]) * count if len(physical) > count else 0
    own = physical[first : first + count]
    return own if len(own) == count else None

"""Process start: environment variables, devices, precision, garbage.

These settings must be made before TensorFlow is imported or before its devices are first used, so
no other part of the project makes them.
"""

import contextlib
import functools
import gc
import math
import os
import sys
import tempfile

from absl import logging as absl_logging

from switch_tf import accelerators
from switch_tf.errors import UserError

DEVICE_TYPES = ("CPU", "GPU", "TPU")
# More CPU devices than this on a core only wait for each other, and each takes memory.
DEVICES_PER_CORE = 8

# Objects made between collections of new garbage, and those between collections of older.
_GARBAGE = (50_000, 10, 10)

_started_devices: int | None = None
_device_type = "CPU"

# Makes DTensor write its state after each pass, to the folder of `lowered_functions`.
_DUMPS = "bridge_logger=4,dtensor_mlir_passes=4"
_DUMP_FOLDER = "TF_DUMP_GRAPH_PREFIX"
_DTYPES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def start(num_devices: int = 1, device_type: str = "CPU", shows_lowered: bool = False) -> None:
    """Starts TensorFlow with the given devices.

    Sets environment variables (all-to-all relayouts, oneDNN, log level, those of `accelerators`),
    splits the CPU into logical devices, and turns off graph rewriting. A second call with the same
    or a smaller number of devices does nothing. If DTENSOR_JOBS lists several processes, waits for
    the others; each provides its share of the devices.

    Args:
      num_devices: number of devices in the mesh, over all processes.
      device_type: one of `DEVICE_TYPES`, of which meshes are made.
      shows_lowered: whether to enable `lowered_functions`, in which compilation is slower. Only the
        commands that inspect lowered functions need it.

    Raises:
      UserError: TensorFlow was started before, with fewer or with other devices; there are too
        few devices; or this build of TensorFlow is not one for them.
    """
    global _started_devices, _device_type
    check_device_type(device_type)
    if _started_devices is not None:
        if num_devices > _started_devices:
            raise UserError(
                f"{num_devices} devices were requested, but this process started with "
                f"{_started_devices}: start a new process"
            )
        if device_type != _device_type:
            raise UserError(
                f"{device_type} devices were requested, but this process started with "
                f"{_device_type} devices: start a new process"
            )
        return
    if "tensorflow" in sys.modules and os.environ.get("DTENSOR_USE_ALL_TO_ALL_RELAYOUT") != "1":
        raise UserError(
            "tensorflow was imported before switch_tf.runtime.start(): relayouts would lower to "
            "all-gathers; call start() first"
        )
    accelerators.check_machine(device_type)
    _set_environment(device_type, shows_lowered)
    with _quiet_start(device_type):
        import keras
        import tensorflow as tf

    # Keras would add many lines to a UserError raised in a layer.
    keras.config.disable_traceback_filtering()
    accelerators.check_build(device_type)
    _make_devices(device_type, num_devices)
    tf.get_logger().setLevel("ERROR")
    absl_logging.set_verbosity(absl_logging.ERROR)
    _collect_seldom()
    _started_devices, _device_type = num_devices, device_type


def _set_environment(device_type: str, shows_lowered: bool) -> None:
    """Sets the variables that TensorFlow reads when it is imported."""
    # Without it, DTensor lowers expert relayouts to AllGather + slice instead of the paper's
    # all-to-all (Sec. 5).
    os.environ["DTENSOR_USE_ALL_TO_ALL_RELAYOUT"] = "1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # By default TensorFlow uses oneDNN kernels only on cores with AVX512. On AVX2 they also halve
    # the time of attention and take a dense step to 0.75 to 0.9 of its time; a Switch step takes as
    # long as before.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    if shows_lowered:
        os.environ["TF_CPP_VMODULE"] = _DUMPS
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.update(accelerators.environment(device_type, os.environ))


def is_started() -> bool:
    """Whether `start` has been called."""
    return _started_devices is not None


def _collect_seldom() -> None:
    """Collects garbage seldom, and not among what the imports made.

    Tracing makes millions of small objects that stay; looking through them took an eighth of the
    time until a first step. Tensors go with their last reference, without being collected.
    """
    gc.freeze()
    gc.set_threshold(*_GARBAGE)


def check_device_type(device_type: str) -> None:
    """Checks that meshes support a type of device.

    Raises:
      UserError: it is not one of `DEVICE_TYPES`.
    """
    if device_type not in DEVICE_TYPES:
        raise UserError(f"DEVICE_TYPE={device_type!r}: give 'CPU', 'GPU' or 'TPU'")


def check_devices(num_devices: int, device_type: str) -> None:
    """Checks that this machine can start its share of a mesh's devices; needs no TensorFlow.

    Raises:
      UserError: there are more than `DEVICES_PER_CORE` CPU devices on each core, or not all of the
        TPU's.
    """
    local_devices = math.ceil(num_devices / num_hosts())
    tpu = accelerators.tpu() if device_type == "TPU" else None
    if tpu is not None and local_devices != tpu.devices:
        raise UserError(_not_all(num_devices, tpu.devices))
    cores = len(os.sched_getaffinity(0))
    if device_type == "CPU" and local_devices > DEVICES_PER_CORE * cores:
        raise UserError(
            f"MESH_SHAPE has {num_devices} devices, too many CPU devices for {cores} "
            f"core{'s' * (cores > 1)} of this machine: give at most {DEVICES_PER_CORE * cores}, or "
            "use switch-tf plan, which needs no devices, to plan the larger mesh"
        )


def device_type() -> str:
    """The type of device given to `start`, on which meshes are created."""
    return _device_type


def lacks_bfloat16() -> bool:
    """Whether TensorFlow has no good matrix products of bfloat16 on the devices in use.

    That is so on CPUs without AVX512, for which oneDNN has none, and if oneDNN is switched off.
    """
    if _device_type != "CPU":
        return False
    is_off = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1").lower() in ("0", "false")
    return is_off or not _features() & {"avx512f", "avx_ne_convert"}


@functools.cache
def _features() -> frozenset[str]:
    """What the processor has, by Linux's names; nothing if it does not tell."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            name, _, text = line.partition(":")
            if name.strip() == "flags":
                return frozenset(text.split())
    return frozenset()


def lacks_bfloat16_collectives() -> bool:
    """Whether devices cannot exchange bfloat16: on GPU, TensorFlow refuses it of NCCL."""
    return _device_type == "GPU"


def num_hosts() -> int:
    """Number of the run's hosts; 1 where this process is alone."""
    return len(os.environ.get("DTENSOR_JOBS", "").split(","))


def host_index() -> int:
    """Which of the run's hosts this process is; 0 where it is alone."""
    return int(os.environ.get("DTENSOR_CLIENT_ID", "0"))


def is_chief() -> bool:
    """Whether this is the one process that shows progress and writes logs."""
    return host_index() == 0


def tell(*lines: str) -> None:
    """Prints lines, if this is the chief: other processes would repeat them."""
    if lines and is_chief():
        print(*lines, sep="\n", flush=True)


def _make_devices(device_type: str, num_devices: int) -> None:
    """Creates this process's share of the devices, and the communication between processes."""
    import tensorflow as tf
    from tensorflow.experimental import dtensor

    physical = tf.config.list_physical_devices(device_type)
    if not physical:
        raise UserError(accelerators.no_device(device_type))
    local_devices = math.ceil(num_devices / dtensor.num_clients())
    options = {}
    if device_type == "CPU":
        _split_cpu(physical[0], local_devices)
    elif device_type == "TPU":
        if local_devices != len(physical):
            raise UserError(_not_all(num_devices, len(physical)))
        tpu = accelerators.tpu()
        options["experimental_enable_megcore"] = (
            tpu is not None and tpu.has_megacore and len(physical) == tpu.chips
        )
    else:
        own = accelerators.own_gpus(physical, local_devices, os.environ)
        if own is None:
            raise UserError(
                f"MESH_SHAPE needs {local_devices} {device_type} devices, but this machine has "
                f"{len(physical)}: make MESH_SHAPE smaller"
            )
        # TensorFlow takes the memory of all that it sees.
        tf.config.set_visible_devices(own, device_type)
    with _quiet_start(device_type):
        dtensor.initialize_accelerator_system(device_type, **options)


def _not_all(num_devices: int, local: int) -> str:
    """The line of an error about a mesh that is not of all TPU devices; `local` are a host's."""
    hosts = num_hosts()
    each = f" ({local} on each of {hosts} hosts)" if hosts > 1 else ""
    return (
        f"MESH_SHAPE has {num_devices} devices, but there are {hosts * local} TPU devices{each}, "
        f"and a mesh on TPU has all of them: give sizes whose product is {hosts * local}"
    )


def _split_cpu(cpu, num_devices: int) -> None:
    """Splits the CPU into logical devices, and sets how they share its cores and compile."""
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * num_devices
    )
    # Devices work in parallel. If there are as many as cores, an op that is also split over cores
    # only waits for them (a step of eight devices on two cores takes 1.3 times as long).
    cores = len(os.sched_getaffinity(0))
    tf.config.threading.set_intra_op_parallelism_threads(max(1, cores // num_devices))
    # Grappler rewrites each device's graph: that takes a third or more of a step's compilation, and
    # the step is as fast without it, with the same values.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def dtype_policy(dtype: str) -> str:
    """The Keras dtype policy for DTYPE, a `rules.Dtype`; weights are float32 under both."""
    return _DTYPES[dtype]


@contextlib.contextmanager
def lowered_functions():
    """Yields a folder that receives the MLIR text of what DTensor compiles in the context.

    There is a file for each pass over each function, named in the order of the passes.

    Raises:
      RuntimeError: `start` was called without `shows_lowered`.
    """
    if os.environ.get("TF_CPP_VMODULE") != _DUMPS:
        raise RuntimeError("runtime.start(shows_lowered=True) was not called")
    before = os.environ.get(_DUMP_FOLDER)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[_DUMP_FOLDER] = folder
        try:
            yield folder
        finally:
            del os.environ[_DUMP_FOLDER]
            if before is not None:
                os.environ[_DUMP_FOLDER] = before


@contextlib.contextmanager
def _quiet_start(device_type: str):
    """Discards what TensorFlow's libraries write to stderr before their log levels apply.

    On TPU it stays: libtpu says there why it cannot start, and may end the process at once.
    """
    if device_type == "TPU":
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)

"""Process start: environment variables, logical devices, precision.

What is set here must happen before TensorFlow is imported or before its devices are first used,
so nothing else in the project touches these settings.
"""

import contextlib
import math
import os
import sys
import tempfile

from absl import logging as absl_logging

from switch_tf.errors import UserError

DEVICE_TYPES = ("CPU", "GPU", "TPU")

_started_devices: int | None = None
_device_type = "CPU"

# What DTensor writes after each of its passes, where `lowered_functions` says.
_DUMPS = "bridge_logger=4,dtensor_mlir_passes=4"
_DUMP_FOLDER = "TF_DUMP_GRAPH_PREFIX"
_DTYPES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def start(num_devices: int = 1, device_type: str = "CPU", shows_lowered: bool = False) -> None:
    """Starts TensorFlow with `num_devices` devices of `device_type`.

    Sets what environment variables steer (all-to-all relayouts, oneDNN, log level), splits the CPU
    into logical devices, and leaves its graphs as they are. A second call with the same or a
    smaller number of devices does nothing. Where DTENSOR_JOBS lists several processes, it waits for
    the others; each brings its share of the devices.

    Args:
      num_devices: of the mesh, in all processes.
      device_type: one of `DEVICE_TYPES`; `Mesh.create` takes the same.
      shows_lowered: whether `lowered_functions` is to work; compiling takes longer within it.

    Raises:
      UserError: TensorFlow was started before, or with fewer or other devices, or there are not so
        many.
    """
    global _started_devices, _device_type
    check_device_type(device_type)
    if _started_devices is not None:
        if num_devices > _started_devices:
            raise UserError(
                f"{num_devices} devices asked for, but this process started with "
                f"{_started_devices}: start a new process"
            )
        if device_type != _device_type:
            raise UserError(
                f"{device_type} devices asked for, but this process started with {_device_type} "
                "devices: start a new process"
            )
        return
    if "tensorflow" in sys.modules and os.environ.get("DTENSOR_USE_ALL_TO_ALL_RELAYOUT") != "1":
        raise UserError(
            "tensorflow was imported before switch_tf.runtime.start(): relayouts would lower to "
            "all-gathers; call start() first"
        )
    # Without it DTensor lowers the expert relayouts to AllGather + slice, not to the paper's
    # all-to-all (Sec. 5).
    os.environ["DTENSOR_USE_ALL_TO_ALL_RELAYOUT"] = "1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # TensorFlow's own default leaves oneDNN's kernels to cores with AVX512. With AVX2 alone, too,
    # attention takes half the time in them, and a dense step 0.75 to 0.9 of it; a Switch step takes
    # what it took.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    if shows_lowered:
        os.environ["TF_CPP_VMODULE"] = _DUMPS
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    with _quiet_import():
        import keras
        import tensorflow as tf

    # Keras would wrap a UserError raised in a layer into many lines.
    keras.config.disable_traceback_filtering()
    _make_devices(device_type, num_devices)
    tf.get_logger().setLevel("ERROR")
    absl_logging.set_verbosity(absl_logging.ERROR)
    _started_devices, _device_type = num_devices, device_type


def check_device_type(device_type: str) -> None:
    """Checks that a mesh may be of such devices.

    Raises:
      UserError: none of `DEVICE_TYPES`.
    """
    if device_type not in DEVICE_TYPES:
        raise UserError(f"DEVICE_TYPE={device_type!r}: give 'CPU', 'GPU' or 'TPU'")


def device_type() -> str:
    """The type of device that `start` was given: meshes are made of these."""
    return _device_type


def is_chief() -> bool:
    """Whether this process is the one, of several, that prints and writes logs."""
    return os.environ.get("DTENSOR_CLIENT_ID", "0") == "0"


def _make_devices(device_type: str, num_devices: int) -> None:
    """Makes this process's share of the devices, and what they talk by."""
    import tensorflow as tf
    from tensorflow.experimental import dtensor

    physical = tf.config.list_physical_devices(device_type)
    if not physical:
        raise UserError(
            f"DEVICE_TYPE='{device_type}': no {device_type} device on this machine; leave it out "
            "for CPU devices"
        )
    local_devices = math.ceil(num_devices / dtensor.num_clients())
    if device_type == "CPU":
        _split_cpu(physical[0], local_devices)
    elif len(physical) < local_devices:
        raise UserError(
            f"{local_devices} {device_type} devices asked for by MESH_SHAPE, {len(physical)} "
            "there: make MESH_SHAPE smaller"
        )
    dtensor.initialize_accelerator_system(device_type)


def _split_cpu(cpu, num_devices: int) -> None:
    """Makes logical devices of the CPU, and sets how they share its cores and compile."""
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * num_devices
    )
    # Devices work side by side: where they are as many as the cores, an op that is split over
    # cores, too, only waits for them (a step of eight devices on two cores takes 1.3 times).
    cores = len(os.sched_getaffinity(0))
    tf.config.threading.set_intra_op_parallelism_threads(max(1, cores // num_devices))
    # Grappler rewrites the graph of each device: a third or more of the compilation of a step,
    # which is as fast without it, and whose values are the same.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def dtype_policy(dtype: str) -> str:
    """Keras dtype policy of DTYPE, a `rules.Dtype`; weights are float32 under both."""
    return _DTYPES[dtype]


@contextlib.contextmanager
def lowered_functions():
    """Yields a folder that gets the MLIR text of what DTensor compiles within the context.

    A file for each pass over each function, named in the order of the passes.

    Raises:
      RuntimeError: `start` was not told of it.
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
def _quiet_import():
    """Drops what TensorFlow's libraries write to stderr before their log levels are in force."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)

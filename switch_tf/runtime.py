"""Process start and end: environment variables, devices, precision, garbage, signals.

These settings must be made before TensorFlow is imported or before its devices are first used, so
no other part of the project makes them.
"""

import contextlib
import functools
import gc
import math
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from typing import NoReturn

from absl import logging as absl_logging

from switch_tf.errors import Interruption, UserError

DEVICE_TYPES = ("CPU", "GPU", "TPU")
# More CPU devices than this on a core only wait for each other, and each takes memory.
DEVICES_PER_CORE = 8

# Seconds until an interruption is raised again that Python has discarded.
_RAISED_AGAIN_AFTER = 0.1

# Objects made between collections of new garbage, and those between collections of older.
_GARBAGE = (50_000, 10, 10)

_started_devices: int | None = None
_device_type = "CPU"
# Signals that interrupted the command, and those of them whose exception Python has discarded.
_received: list[int] = []
_discarded: list[int] = []
# What is not taken down before the process ends; None where the process goes on.
_kept: list | None = None
# The environment with which the process of a command was started, or is started anew.
_first_environment: dict[str, str] = {}
_RESTARTED = "SWITCH_TF_RESTARTED"
_ENDING = (signal.SIGINT, signal.SIGTERM)
# Numbers of the files that stay open over that, also of those that stayed before.
_handed_on = {int(number) for number in os.environ.get(_RESTARTED, "").split()}

# Makes DTensor write its state after each pass, to the folder of `lowered_functions`.
_DUMPS = "bridge_logger=4,dtensor_mlir_passes=4"
_DUMP_FOLDER = "TF_DUMP_GRAPH_PREFIX"
_DTYPES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


@contextlib.contextmanager
def interruptible(command: str) -> Iterator[None]:
    """Context of a whole command, which ends with one line and an `Interruption`'s status.

    It is raised by SIGINT and SIGTERM, or by what handles them itself, such as the training loop.

    Args:
      command: its name, before the line.

    Raises:
      SystemExit: the command was interrupted.
    """

    def interrupt(number, _):
        _received.append(number)
        raise Interruption(number)

    handlers = {signal.SIGINT: interrupt, signal.SIGTERM: interrupt, signal.SIGALRM: _raise_again}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    interruption, hook = None, sys.unraisablehook
    sys.unraisablehook = lambda what: _keep_interruption(what, hook)
    try:
        # Those that came while the process started anew.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        yield
        check_interrupted()
    except Interruption as error:
        interruption = error
    except Exception:
        # A library's import or callback may turn what `interrupt` raises into an error of its own.
        if not _received:
            raise
        interruption = Interruption(_received[0])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)
        _received.clear()
        _discarded.clear()
    if interruption is not None:
        if is_chief():
            print(f"{command}: {interruption}", file=sys.stderr)
        sys.exit(interruption.status)


def check_interrupted() -> None:
    """To be called between the stages of a command, for what a library's C++ code has swallowed.

    Raises:
      Interruption: a signal came in the command, and the command still goes on.
    """
    if _received:
        raise Interruption(_received[0])


def interrupted_by() -> int | None:
    """The first signal that interrupted the command, if any: its work is to end at once."""
    return _received[0] if _received else None


def _keep_interruption(what, hook) -> None:
    """Has an `Interruption` raised again that Python discards, as in `__del__`; others go on.

    By a timer, because this is called where Python discards whatever is raised.
    """
    if isinstance(what.exc_value, Interruption):
        _discarded.append(what.exc_value.number)
        signal.setitimer(signal.ITIMER_REAL, _RAISED_AGAIN_AFTER)
    else:
        hook(what)


def _raise_again(*_) -> None:
    signal.raise_signal(_discarded.pop())


def ends_at_once() -> None:
    """Says that the process is a command's, which ends it without clean-up and may restart it."""
    global _kept
    _kept = []
    _first_environment.update(os.environ)


def can_restart() -> bool:
    """Whether this process is a command's, which an `errors.Restart` starts anew."""
    return _kept is not None


def restart() -> NoReturn:
    """Starts the command anew in this process, as it was started at first.

    Its number stays, and the files that `hand_on` names; memory, threads and other files go.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    for number in {*map(int, os.listdir("/proc/self/fd"))} - {0, 1, 2} - _handed_on:
        with contextlib.suppress(OSError):
            os.set_inheritable(number, False)
    # They wait until the new process has its handlers.
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    kept = {_RESTARTED: " ".join(map(str, _handed_on))}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], _first_environment | kept)


def has_restarted() -> bool:
    """Whether this process is that of a command that `restart` started anew."""
    return _RESTARTED in os.environ


def hand_on(file) -> None:
    """Has a file, with what is locked by it, stay open over a `restart`."""
    number = os.dup(file.fileno())
    os.set_inheritable(number, True)
    _handed_on.add(number)


def keep(thing) -> None:
    """Keeps what takes long to take down until the process ends, if it then ends at once.

    An iterator of tf.data waits until its threads have filled their buffers: up to a minute.
    """
    if _kept is not None:
        _kept.append(thing)


def start(num_devices: int = 1, device_type: str = "CPU", shows_lowered: bool = False) -> None:
    """Starts TensorFlow with the given devices.

    Sets environment variables (all-to-all relayouts, oneDNN, log level), splits the CPU into
    logical devices, and turns off graph rewriting. A second call with the same or a smaller number
    of devices does nothing. If DTENSOR_JOBS lists several processes, waits for the others; each
    provides its share of the devices.

    Args:
      num_devices: number of devices in the mesh, over all processes.
      device_type: one of `DEVICE_TYPES`, of which meshes are made.
      shows_lowered: whether to enable `lowered_functions`, in which compilation is slower. Only the
        commands that inspect lowered functions need it.

    Raises:
      UserError: TensorFlow was started before, with fewer or with other devices, or there are too
        few devices.
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
    with _quiet_start():
        import keras
        import tensorflow as tf

    # Keras would add many lines to a UserError raised in a layer.
    keras.config.disable_traceback_filtering()
    _make_devices(device_type, num_devices)
    tf.get_logger().setLevel("ERROR")
    absl_logging.set_verbosity(absl_logging.ERROR)
    _collect_seldom()
    _started_devices, _device_type = num_devices, device_type


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
    """Checks that this machine can start its share of a mesh's CPU devices; needs no TensorFlow.

    Raises:
      UserError: there are more than `DEVICES_PER_CORE` on each core.
    """
    local_devices = math.ceil(num_devices / len(os.environ.get("DTENSOR_JOBS", "").split(",")))
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
        raise UserError(
            f"DEVICE_TYPE='{device_type}': no {device_type} device on this machine; leave it out "
            "for CPU devices"
        )
    local_devices = math.ceil(num_devices / dtensor.num_clients())
    if device_type == "CPU":
        _split_cpu(physical[0], local_devices)
    elif len(physical) < local_devices:
        raise UserError(
            f"MESH_SHAPE needs {local_devices} {device_type} devices, but this machine has "
            f"{len(physical)}: make MESH_SHAPE smaller"
        )
    with _quiet_start():
        dtensor.initialize_accelerator_system(device_type)


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
def _quiet_start():
    """Discards what TensorFlow's libraries write to stderr before their log levels apply."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)

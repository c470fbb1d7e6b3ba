import os
import signal
import subprocess
import sys

import keras
import pytest
import tensorflow as tf
from tensorflow.experimental import dtensor

from switch_tf import accelerators, runtime
from switch_tf.accelerators import Tpu
from switch_tf.errors import UserError

ALL_TO_ALL = "DTENSOR_USE_ALL_TO_ALL_RELAYOUT"


@pytest.fixture
def not_started(monkeypatch):
    """This process as one that imported TensorFlow, for any device, but did not start."""
    monkeypatch.setattr(runtime, "_started_devices", None)
    monkeypatch.setattr(runtime, "_device_type", "CPU")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    monkeypatch.setattr(accelerators, "check_machine", lambda kind: None)
    monkeypatch.setattr(accelerators, "check_build", lambda kind: None)
    # They would be those of other tests, too.
    monkeypatch.setattr(accelerators, "environment", lambda kind, before: {})
    return monkeypatch


@pytest.fixture
def starts(not_started):
    """What TensorFlow's start is called with."""
    calls = []
    not_started.setattr(
        dtensor, "initialize_accelerator_system", lambda kind, **o: calls.append((kind, o))
    )
    return calls


def line_of(*arguments):
    """The text of the UserError that starting raises."""
    with pytest.raises(UserError) as caught:
        runtime.start(*arguments)
    return str(caught.value)


def test_start_makes_the_devices_and_sets_the_environment():
    code = (
        "import sys\n"
        "from switch_tf import runtime\n"
        "assert 'tensorflow' not in sys.modules\n"
        "runtime.start(3)\n"
        "import os, keras, tensorflow as tf\n"
        f"print(len(tf.config.list_logical_devices('CPU')), os.environ['{ALL_TO_ALL}'],"
        "      keras.config.backend(), keras.config.is_traceback_filtering_enabled(),"
        "      os.environ['TF_ENABLE_ONEDNN_OPTS'],"
        "      tf.config.optimizer.get_experimental_options()['disable_meta_optimizer'])"
    )
    steered = (ALL_TO_ALL, "KERAS_BACKEND", "TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS")
    environment = {k: v for k, v in os.environ.items() if k not in steered}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["3", "1", "tensorflow", "False", "1", "True"], done.stderr


def test_a_second_start_with_no_more_devices_changes_nothing():
    runtime.start(8)
    runtime.start(2)
    assert len(tf.config.list_logical_devices("CPU")) == 8


def test_a_second_start_with_more_devices_is_one_line():
    assert line_of(9) == (
        "9 devices were requested, but this process started with 8: start a new process"
    )


def test_tensorflow_imported_before_the_start_is_one_line(not_started):
    not_started.delenv(ALL_TO_ALL)
    assert line_of(1) == (
        "tensorflow was imported before switch_tf.runtime.start(): relayouts would lower to "
        "all-gathers; call start() first"
    )


def test_a_device_type_that_is_not_there_is_one_line(not_started):
    assert line_of(1, "GPU") == (
        "DEVICE_TYPE='GPU': no GPU device on this machine; leave it out for CPU devices"
    )


def test_a_device_type_that_there_is_not_is_one_line():
    assert line_of(1, "gpu") == "DEVICE_TYPE='gpu': give 'CPU', 'GPU' or 'TPU'"


def test_a_second_start_with_devices_of_another_type_is_one_line():
    assert runtime.device_type() == "CPU"
    assert line_of(1, "TPU") == (
        "TPU devices were requested, but this process started with CPU devices: start a new process"
    )


def test_too_few_accelerators_are_one_line(not_started):
    not_started.setattr(tf.config, "list_physical_devices", lambda kind: [kind] * 2)
    assert line_of(4, "GPU") == (
        "MESH_SHAPE needs 4 GPU devices, but this machine has 2: make MESH_SHAPE smaller"
    )


@pytest.mark.parametrize("client, is_chief", [(None, True), ("0", True), ("1", False)])
def test_the_first_process_is_the_chief_and_the_only_one_to_print(
    monkeypatch, capsys, client, is_chief
):
    monkeypatch.delenv("DTENSOR_CLIENT_ID", raising=False)
    if client is not None:
        monkeypatch.setenv("DTENSOR_CLIENT_ID", client)
    assert runtime.is_chief() is is_chief
    runtime.tell("a", "b")
    runtime.tell()
    assert capsys.readouterr().out == ("a\nb\n" if is_chief else "")


def test_a_user_error_in_a_layer_comes_out_as_it_is():
    class Refuses(keras.layers.Layer):
        def call(self, x):
            raise UserError("x is wrong: mend it")

    with pytest.raises(UserError) as caught:
        Refuses()(tf.zeros([1]))
    assert str(caught.value) == "x is wrong: mend it"


@pytest.mark.parametrize(
    "tpu, listed, megacore",
    [
        (Tpu("v4", 4, 4, True), 4, True),
        # With an environment that makes two devices of a chip.
        (Tpu("v4", 4, 4, True), 8, False),
        (Tpu("v2 or v3", 4, 8, False), 8, False),
        (Tpu("v5e", 4, 4, False), 4, False),
    ],
)
def test_tpu_is_started_with_megacore_where_two_cores_are_one_device(
    starts, not_started, tpu, listed, megacore
):
    not_started.setattr(accelerators, "tpu", lambda: tpu)
    not_started.setattr(tf.config, "list_physical_devices", lambda kind: [kind] * listed)
    runtime.start(listed, "TPU")
    assert starts == [("TPU", {"experimental_enable_megcore": megacore})]
    assert runtime.device_type() == "TPU" and not runtime.lacks_bfloat16_collectives()


@pytest.mark.parametrize("kind, is_told", [("TPU", True), ("CPU", False)])
def test_what_a_tpu_says_before_it_ends_the_process_is_on_stderr(kind, is_told):
    """Such as a failed CHECK of libtpu, in the import of TensorFlow or in the start of the TPU."""
    code = (
        "import os, sys\n"
        "from switch_tf import accelerators, runtime\n"
        "accelerators.check_machine = accelerators.check_build = lambda kind: None\n"
        "accelerators.environment = lambda kind, before: {}\n"
        "class Library:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'tensorflow':\n"
        "            os.write(2, b'Check failed: the cause')\n"
        "            os.abort()\n"
        "sys.meta_path.insert(0, Library())\n"
        f"runtime.start(1, '{kind}')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGABRT
    assert ("Check failed: the cause" in done.stderr) == is_told


def test_what_the_start_of_a_tpu_says_is_on_stderr(starts, not_started, capfd):
    not_started.setattr(accelerators, "tpu", lambda: Tpu("v4", 4, 4, True))
    not_started.setattr(tf.config, "list_physical_devices", lambda kind: [kind] * 4)
    initialize = dtensor.initialize_accelerator_system

    def says(kind, **options):
        os.write(2, b"the TPU is in use")
        initialize(kind, **options)

    not_started.setattr(dtensor, "initialize_accelerator_system", says)
    runtime.start(4, "TPU")
    assert capfd.readouterr().err == "the TPU is in use"


@pytest.mark.parametrize("devices", [2, 8])
def test_a_mesh_that_is_not_of_all_tpu_devices_is_one_line(starts, not_started, devices):
    not_started.setattr(accelerators, "tpu", lambda: Tpu("v4", 4, 4, True))
    not_started.setattr(tf.config, "list_physical_devices", lambda kind: [kind] * 4)
    line = (
        f"MESH_SHAPE has {devices} devices, but there are 4 TPU devices, and a mesh on TPU has all "
        "of them: give sizes whose product is 4"
    )
    assert line_of(devices, "TPU") == line
    with pytest.raises(UserError) as error:
        runtime.check_devices(devices, "TPU")
    assert str(error.value) == line and not starts


def test_the_tpu_devices_of_all_hosts_are_counted_before_tensorflow_starts(monkeypatch):
    monkeypatch.setattr(accelerators, "tpu", lambda: Tpu("v4", 4, 4, True))
    monkeypatch.setenv("DTENSOR_JOBS", "a:1,b:1,c:1,d:1")
    runtime.check_devices(16, "TPU")
    with pytest.raises(UserError, match=r"16 TPU devices \(4 on each of 4 hosts\), .* is 16$"):
        runtime.check_devices(32, "TPU")


def test_a_process_sees_no_gpus_but_its_own(starts, not_started):
    seen = []
    not_started.setattr(tf.config, "list_physical_devices", lambda kind: ["GPU:0", "GPU:1"])
    not_started.setattr(tf.config, "set_visible_devices", lambda *a: seen.append(a))
    not_started.setattr(dtensor, "num_clients", lambda: 2)
    not_started.setenv("DTENSOR_JOBS", "a:1,a:2")
    not_started.setenv("DTENSOR_CLIENT_ID", "1")
    runtime.start(2, "GPU")
    assert (seen, starts) == ([(["GPU:1"], "GPU")], [("GPU", {})])
    assert runtime.lacks_bfloat16_collectives()


def test_variables_for_a_device_are_set_before_tensorflow_is_imported():
    code = (
        "import os, sys\n"
        "from switch_tf import accelerators, runtime\n"
        "def environment(kind, before):\n"
        "    assert kind == 'CPU' and 'tensorflow' not in sys.modules\n"
        "    return {'OF_DEVICE': 'set'}\n"
        "accelerators.environment = environment\n"
        "runtime.start(1)\n"
        "print(os.environ['OF_DEVICE'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set\n", done.stderr

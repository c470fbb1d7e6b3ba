"""On stubs of what Linux, the installed packages and TensorFlow say: there is no accelerator."""

import subprocess
import sys
import types

import pytest
import tensorflow as tf

from switch_tf import accelerators
from switch_tf.errors import UserError


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Gives the machine PCI devices, as pairs of vendor and kind."""
    monkeypatch.setattr(accelerators, "_PCI", tmp_path / "pci")
    monkeypatch.setattr(accelerators, "_GPU", tmp_path / "nvidia0")
    for name in (*accelerators._VISIBLE, "TF_PLUGGABLE_DEVICE_LIBRARY_PATH"):
        monkeypatch.delenv(name, raising=False)

    def give(*devices):
        for number, (vendor, kind) in enumerate(devices):
            folder = tmp_path / "pci" / f"0000:00:{number:02}.0"
            folder.mkdir(parents=True)
            (folder / "vendor").write_text(f"{vendor}\n")
            (folder / "device").write_text(f"{kind}\n")

    return give


@pytest.fixture
def installed(monkeypatch):
    """Says which packages are installed, and whether TensorFlow's build is for TPU or CUDA."""

    def say(is_tpu=False, has_cuda=True, **versions):
        found = {name.replace("_", "-"): version for name, version in versions.items()}
        monkeypatch.setattr(accelerators, "_version", found.get)
        monkeypatch.setattr(accelerators, "is_tpu_build", lambda: is_tpu)
        monkeypatch.setattr(accelerators, "_has_cuda", lambda: has_cuda)

    return say


V4, V3, V6E = ("0x1ae0", "0x005e"), ("0x1ae0", "0x0027"), ("0x1ae0", "0x006f")
# Google's network adapter, and another vendor's device with a TPU's number.
OTHERS = ("0x1ae0", "0x0042"), ("0x10de", "0x005e")


def refused(check, *arguments):
    with pytest.raises(UserError) as error:
        check(*arguments)
    return str(error.value)


@pytest.mark.parametrize(
    "devices, expected",
    [
        ([*OTHERS, *[V4] * 4], accelerators.Tpu("v4", 4, 4, True)),
        ([V3] * 4, accelerators.Tpu("v2 or v3", 4, 8, False)),
        ([V6E] * 8, accelerators.Tpu("v6e", 8, 8, False)),
        (OTHERS, None),
        ([], None),
    ],
)
def test_the_chips_of_a_machine_and_the_devices_that_they_make(machine, devices, expected):
    machine(*devices)
    assert accelerators.tpu() == expected


def test_a_process_may_be_given_some_of_the_chips(machine, monkeypatch):
    machine(*[V3] * 4)
    monkeypatch.setenv("TPU_VISIBLE_CHIPS", "0,1")
    assert accelerators.tpu() == accelerators.Tpu("v2 or v3", 2, 4, False)


def test_for_tpu_the_variables_of_pjrt_are_set_unless_the_user_has(machine, monkeypatch):
    machine(V4)
    libtpu = types.SimpleNamespace(get_library_path=lambda: "/lib/of/libtpu.so")
    monkeypatch.setitem(sys.modules, "libtpu", libtpu)
    found = accelerators.environment("TPU", {"TF_XLA_FLAGS": "--own=1"})
    assert found.pop("TF_XLA_FLAGS").startswith("--tf_mlir_enable_mlir_bridge=true ")
    assert found == {
        "PJRT_DEVICE": "TPU",
        "NEXT_PLUGGABLE_DEVICE_USE_C_API": "true",
        "TF_PLUGGABLE_DEVICE_LIBRARY_PATH": "/lib/of/libtpu.so",
        "JAX_PLATFORMS": "cpu",
    }
    own = {name: "own" for name in found}
    assert accelerators.environment("TPU", own).keys() == {"TF_XLA_FLAGS"}
    flags = accelerators.environment("TPU", {"TF_XLA_FLAGS": "--own=1"})["TF_XLA_FLAGS"]
    assert flags.endswith(" --own=1")


def test_for_gpu_collectives_are_of_nccl(machine):
    machine()
    assert accelerators.environment("GPU", {}) == {
        "DTENSOR_GPU_USE_NCCL_COMMUNICATION": "1",
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
    }


def test_metadata_of_a_tpu_are_looked_for_only_where_there_is_one(machine):
    assert accelerators.environment("CPU", {}) == {"TPU_SKIP_MDS_QUERY": "1"}
    machine(V4)
    assert accelerators.environment("CPU", {}) == {}


def test_a_tpu_that_is_not_there_is_one_line_before_the_import(machine, installed):
    installed(tensorflow="2.20.0")
    assert refused(accelerators.check_machine, "TPU") == (
        "DEVICE_TYPE='TPU': no TPU device on this machine; leave it out for CPU devices"
    )
    accelerators.check_machine("CPU")


@pytest.mark.parametrize(
    "libtpu, what",
    [
        ({"libtpu": "0.0.52"}, "0.0.52 is installed"),
        ({}, "libtpu is not installed"),
    ],
)
def test_a_libtpu_that_would_end_the_import_is_one_line(
    machine, installed, monkeypatch, libtpu, what
):
    installed(tensorflow_tpu="2.20.0", **libtpu)
    assert refused(accelerators.check_machine, "CPU") == (
        f"tensorflow-tpu works with libtpu 0.0.14, but {what}: set up with SWITCH_TF_LOCK=tpu, or "
        "pip install libtpu==0.0.14"
    )
    monkeypatch.setenv("TF_PLUGGABLE_DEVICE_LIBRARY_PATH", "/lib/libtpu.so")
    accelerators.check_machine("CPU")


def test_another_build_than_that_for_tpu_is_one_line_on_a_tpu_vm(machine, installed):
    machine(*[V4] * 4)
    installed(tensorflow="2.20.0")
    assert refused(accelerators.check_build, "TPU") == (
        "DEVICE_TYPE='TPU': the module tensorflow is that of tensorflow 2.20.0, which cannot use "
        "the 4 TPU v4 chips of this machine: set up with SWITCH_TF_LOCK=tpu; tensorflow and "
        "tensorflow-tpu must not be installed side by side"
    )
    accelerators.check_build("CPU")
    assert accelerators.unused("CPU") == [
        "DEVICE_TYPE='CPU' does not use the 4 TPU v4 chips of this machine; the module tensorflow "
        "is that of tensorflow 2.20.0: for TPU, set up with SWITCH_TF_LOCK=tpu, and set "
        "DEVICE_TYPE='TPU'"
    ]
    installed(is_tpu=True, tensorflow="2.20.0", tensorflow_tpu="2.20.0")
    accelerators.check_build("TPU")
    assert accelerators.unused("TPU") == []
    assert accelerators.unused("CPU") == [
        "DEVICE_TYPE='CPU' does not use the 4 TPU v4 chips of this machine: for TPU, set "
        "DEVICE_TYPE='TPU'"
    ]


def test_the_build_for_tpu_is_one_line_where_gpus_are_asked_for(machine, installed):
    installed(is_tpu=True, has_cuda=False, tensorflow_tpu="2.20.0")
    assert refused(accelerators.check_build, "GPU") == (
        "DEVICE_TYPE='GPU': the module tensorflow is that of tensorflow-tpu 2.20.0, which cannot "
        "use GPUs: set up without SWITCH_TF_LOCK"
    )
    machine()
    accelerators.check_build("CPU")
    assert accelerators.unused("CPU") == []


def test_a_gpu_without_its_libraries_is_told_from_no_gpu(machine, installed, tmp_path):
    installed(tensorflow="2.20.0")
    assert accelerators.no_device("GPU") == (
        "DEVICE_TYPE='GPU': no GPU device on this machine; leave it out for CPU devices"
    )
    (tmp_path / "nvidia0").touch()
    assert "pip install 'tensorflow[and-cuda]==2.20.0'" in accelerators.no_device("GPU")


def test_a_tpu_that_tensorflow_cannot_use_is_told_from_no_tpu(machine, tmp_path, monkeypatch):
    lock = tmp_path / "libtpu_lockfile"
    monkeypatch.setattr(accelerators, "_TPU_LOCK", lock)
    assert accelerators.no_device("TPU") == (
        "DEVICE_TYPE='TPU': no TPU device on this machine; leave it out for CPU devices"
    )
    machine(*[V4] * 4)
    told = accelerators.no_device("TPU")
    begin = "DEVICE_TYPE='TPU': this machine has 4 TPU v4 chips, but TensorFlow can use none"
    assert told.startswith(f"{begin}: one process at a time has them")
    assert f"remove {lock} where one is left" in told
    assert told.endswith("above and in /tmp/tpu_logs")
    lock.touch()
    assert accelerators.no_device("TPU").startswith(f"{begin}, and {lock} is there: one process")


def test_the_build_in_use_is_that_of_the_installed_package():
    names = accelerators.tensorflow_packages()
    assert list(names.values()) == [tf.__version__]
    assert accelerators.is_tpu_build() == ("tensorflow-tpu" in names)


def test_the_machine_is_looked_at_without_tensorflow():
    code = (
        "import sys\n"
        "from switch_tf import accelerators\n"
        "accelerators.check_machine('CPU')\n"
        "accelerators.environment('GPU', {})\n"
        "assert not {'tensorflow', 'jax', 'libtpu'} & {*sys.modules}\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "gpus, count, jobs, client, expected",
    [
        # One process for all, or for some of them.
        (4, 4, "", "0", [0, 1, 2, 3]),
        (4, 2, "", "0", [0, 1]),
        # One process a GPU, which a launcher shows each, or all.
        (1, 1, "a:1,a:2", "1", [0]),
        (2, 1, "a:1,a:2,b:1,b:2", "1", [1]),
        (2, 1, "a:1,a:2,b:1,b:2", "2", [0]),
        (4, 2, "a:1,a:2,b:1,b:2", "3", [2, 3]),
        (3, 2, "a:1,a:2", "1", None),
        (1, 2, "", "0", None),
    ],
)
def test_hosts_of_one_machine_take_equal_parts_of_its_gpus(gpus, count, jobs, client, expected):
    environment = {"DTENSOR_JOBS": jobs, "DTENSOR_CLIENT_ID": client}
    assert accelerators.own_gpus(list(range(gpus)), count, environment) == expected

import pytest

from switch_tf import accelerators
from switch_tf.commands.device_defaults import dtype_of_device, mesh_of_slice

TINY, BASE = "models/switch_tiny.gin", "models/switch_base.gin"
TPU = "DEVICE_TYPE='TPU'"


@pytest.fixture
def v4(monkeypatch):
    """A host of a TPU v4 slice."""
    monkeypatch.setattr(accelerators, "tpu", lambda: accelerators.Tpu("v4", 4, 4, True))


@pytest.mark.parametrize(
    "files, bindings, expected",
    [
        ([TINY], [TPU], ["DTYPE = 'bfloat16'"]),
        # The file's own.
        ([BASE], [TPU], []),
        ([TINY], [], []),
        ([TINY], ["DEVICE_TYPE='GPU'"], []),
        ([TINY], [TPU, "DTYPE='float32'"], []),
        ([TINY], [TPU, "TransformerEncoderDecoder.dtype='float32'"], []),
        # Its point is its precision.
        ([TINY, "tables/precision_float32.gin"], [TPU], []),
    ],
)
def test_tpu_computes_in_bfloat16_unless_another_dtype_is_given(files, bindings, expected):
    assert dtype_of_device(files, bindings) == expected


def test_a_dtype_of_a_users_own_file_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.gin").write_text(f"include '{TINY}'\nDTYPE = 'float32'\n")
    assert dtype_of_device(["own.gin"], [TPU]) == []
    (tmp_path / "own.gin").write_text(f"include '{TINY}'\n")
    assert dtype_of_device(["own.gin"], [TPU]) == ["DTYPE = 'bfloat16'"]


def test_a_model_without_a_file_computes_in_bfloat16():
    assert dtype_of_device([], [TPU]) == ["TransformerEncoderDecoder.dtype = 'bfloat16'"]


@pytest.mark.parametrize(
    "files, bindings, hosts, expected",
    [
        (["layouts/expert_data.gin"], [TPU], 4, ["MESH_SHAPE = 'batch:16'"]),
        (["layouts/expert_model_data.gin"], [TPU], 4, ["MESH_SHAPE = 'batch:8,model:2'"]),
        (["layouts/expert_data.gin"], [TPU], 2, []),
        ([], [TPU], 1, ["ModelSetup.mesh_shape = 'batch:4'"]),
        # What is given is not changed, but checked.
        (["layouts/expert_data.gin"], [TPU, "MESH_SHAPE='batch:8'"], 4, []),
        (["layouts/expert_data.gin"], [TPU, "ModelSetup.mesh_shape='batch:8'"], 4, []),
        (["layouts/expert_data.gin"], [], 4, []),
    ],
)
def test_a_mesh_on_tpu_has_all_devices_unless_one_is_given(v4, files, bindings, hosts, expected):
    assert mesh_of_slice(files, bindings, hosts) == expected


def test_a_mesh_that_cannot_have_all_devices_is_left_to_the_checks(monkeypatch):
    monkeypatch.setattr(accelerators, "tpu", lambda: accelerators.Tpu("v5e", 1, 1, False))
    assert mesh_of_slice(["layouts/expert_model_data.gin"], [TPU], 1) == []


def test_without_a_tpu_the_mesh_stays(monkeypatch):
    monkeypatch.setattr(accelerators, "tpu", lambda: None)
    assert mesh_of_slice(["layouts/expert_data.gin"], [TPU], 4) == []

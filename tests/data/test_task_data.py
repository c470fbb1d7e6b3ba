import sys

import pytest
import seqio

from switch_tf.errors import UserError
from switch_tf.mesh import Mesh
from tests.helpers import task_data

LENGTHS = {"inputs": 8, "targets": 6}


def test_the_module_that_registers_a_task_is_imported_when_it_is_asked_for(tmp_path, monkeypatch):
    source = "import seqio\nfrom tests import toy_task\n"
    source += "seqio.MixtureRegistry.add('task_data_own', [('toy_copy', 1.0)])\n"
    (tmp_path / "task_data_module.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    data = task_data("task_data_own", LENGTHS, 4, module="task_data_module")
    with pytest.raises(UserError, match="^no task or mixture 'task_data_own' is registered"):
        task_data("task_data_own", LENGTHS, 4).provider()
    try:
        assert data.provider().name == "task_data_own"
    finally:
        seqio.MixtureRegistry.remove("task_data_own")
        del sys.modules["task_data_module"]


def test_data_without_a_name_are_told():
    with pytest.raises(UserError, match="^no data: set MIXTURE_OR_TASK_NAME; `switch-tf tasks` "):
        task_data(None, LENGTHS, 4).provider()


@pytest.mark.parametrize(
    "mesh_shape, rules, line",
    [
        ("batch:3", "batch:batch", "Own.batch_size=4 is not divisible by the 3 devices of mesh"),
        ("model:4", "length:model", r"TASK_FEATURE_LENGTHS\['targets'\]=6 is not divisible by"),
    ],
)
def test_what_the_mesh_does_not_divide_is_told_by_its_setting(mesh_shape, rules, line):
    with pytest.raises(UserError, match=f"^{line}"):
        task_data(None, LENGTHS, 4).check_batch(Mesh.on_paper(mesh_shape, rules), "Own.batch_size")


@pytest.mark.parametrize("batch_size", [0, 1.5, "4"])
def test_a_batch_size_that_is_no_count_is_told(batch_size):
    with pytest.raises(UserError, match=f"^TaskData.batch_size={batch_size!r}: give a whole numb"):
        task_data(None, LENGTHS, batch_size)

import dataclasses

import pytest

from switch_tf.errors import UserError
from switch_tf.evaluation.settings import Evaluation
from switch_tf.mesh import Mesh
from tests.evaluation.conftest import DATA

MESH = Mesh.on_paper("batch:2", "batch:batch")


@pytest.mark.parametrize("name", ["batches", "batch_size", "decode_examples"])
@pytest.mark.parametrize("value", [0, 1.5])
def test_a_limit_that_is_no_count_is_told(name, value):
    with pytest.raises(UserError, match=f"Evaluation.{name}={value}: give a whole number"):
        Evaluation(**{name: value})


def test_the_data_of_a_run_are_read_from_the_split_to_evaluate_on_and_never_packed():
    data = dataclasses.replace(DATA, split="train", pack=True)
    assert Evaluation().data(data, MESH) == DATA
    found = Evaluation(split="test", batch_size=6).data(data, MESH)
    assert found == dataclasses.replace(DATA, split="test", batch_size=6)


def test_a_batch_that_does_not_divide_is_told_by_the_setting_that_gives_it():
    with pytest.raises(UserError, match="^Evaluation.batch_size=3 is not divisible by the 2 dev"):
        Evaluation(batch_size=3).data(DATA, MESH)
    with pytest.raises(UserError, match="^BATCH_SIZE=3 is not divisible by the 2 devices"):
        Evaluation().data(dataclasses.replace(DATA, batch_size=3), MESH)

"""A small Switch Transformer and the validation split of a toy mixture."""

import functools

import pytest

from switch_tf.setup.mesh_model import ModelSetup
from tests import toy_task
from tests.helpers import task_data, tiny_model

LENGTHS = {"inputs": 8, "targets": 8}
DATA = task_data("toy_mixture", LENGTHS, 4, split="validation", module=toy_task.__name__)
TASKS = ["toy_copy", "toy_copy_too"]
SETUP = ModelSetup(
    model=functools.partial(tiny_model, vocab_size=384, built=False), mesh_shape="batch:2"
)


@pytest.fixture(scope="module")
def made():
    """The model with its weights, on two devices."""
    with SETUP.mesh_model(DATA) as made:
        made.model.build()
        yield made

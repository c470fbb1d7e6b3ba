import functools
from collections.abc import Callable

import gin
import numpy as np
import pytest
import tensorflow as tf

from switch_tf import mesh as mesh_lib
from switch_tf.checkpoints import model_dir
from switch_tf.checkpoints.save import save_model
from switch_tf.data.features import eval_datasets
from switch_tf.data.feed import Feed
from switch_tf.data.task_data import TaskData
from switch_tf.errors import UserError
from switch_tf.layers.context import declare_only
from switch_tf.models.encoder_decoder import TransformerEncoderDecoder
from switch_tf.rules import Path, configurable
from switch_tf.setup.mesh_model import ModelSetup
from tests import toy_task
from tests.helpers import task_data

LENGTHS = {"inputs": 8, "targets": 8}
SIZES = dict(vocab_size=384, d_model=16, d_kv=4, num_heads=2, d_ff=32, num_layers=1)
DATA = task_data("toy_copy", LENGTHS, 4, split="validation", module=toy_task.__name__)


def setup(mesh_shape="batch:2", **sizes):
    model = functools.partial(TransformerEncoderDecoder, **SIZES | sizes)
    return ModelSetup(model=model, mesh_shape=mesh_shape)


@configurable
def toy_entry_point(
    checkpoint_path: Path = gin.REQUIRED,
    data: Callable[[], TaskData] = TaskData,
    setup: Callable[[], ModelSetup] = ModelSetup,
):
    """Logits of the first batch, by all that a command needs."""
    path = model_dir.find(checkpoint_path, "CHECKPOINT_PATH")
    with setup().mesh_model(data(), checkpoint=("CHECKPOINT_PATH", path)) as made:
        made.restore(path)
        with mesh_lib.host():
            (batches,) = eval_datasets(made.data).values()
        call = tf.function(made.model, autograph=False)
        return mesh_lib.to_numpy(call(Feed(batches, made.mesh).next()))


def toy_converter(arrays, names, path, model):
    """Writes a checkpoint of arrays that another library names otherwise."""
    model.build()
    for variable in model.trainable_variables:
        variable.assign(arrays[names(variable.path)])
    save_model(path, model)


def other_name(path):
    return path.replace("/", ".")


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A checkpoint of arrays, and the arrays."""
    path = str(tmp_path_factory.mktemp("converted") / "model")
    with declare_only() as weights:
        TransformerEncoderDecoder(**SIZES).build()
    generator = np.random.default_rng(0)
    arrays = {other_name(w.path): generator.normal(size=w.shape).astype("f") for w in weights}
    toy_converter(arrays, other_name, path, TransformerEncoderDecoder(**SIZES))
    return path, arrays


def test_a_converter_writes_a_checkpoint_that_holds_the_arrays(converted):
    path, arrays = converted
    found = tf.train.load_checkpoint(f"{path}/state")
    names = found.get_variable_to_shape_map()
    assert {other_name(name) for name in names} == set(arrays)
    for name in names:
        np.testing.assert_array_equal(found.get_tensor(name), arrays[other_name(name)])


def test_an_entry_point_is_ten_lines_and_works_on_any_mesh(converted):
    path, _ = converted
    logits = [
        toy_entry_point(path, lambda: DATA, functools.partial(setup, shape))
        for shape in ("batch:1", "batch:4")
    ]
    assert logits[0].shape == (4, LENGTHS["targets"], SIZES["vocab_size"])
    np.testing.assert_allclose(*logits, rtol=1e-4, atol=1e-4)


def test_a_checkpoint_of_another_model_is_told(converted):
    path, _ = converted
    with pytest.raises(UserError, match=r"has shape \(16, 32\), but the model's is \(16, 48\)"):
        toy_entry_point(path, lambda: DATA, functools.partial(setup, d_ff=48))


@pytest.mark.parametrize(
    "data, made, line",
    [
        (DATA, setup("batch:3"), "BATCH_SIZE=4 is not divisible by the 3 devices"),
        (DATA, setup(vocab_size=300), "the model's VOCAB_SIZE is 300: set it to at least 359"),
        (task_data(None, LENGTHS, 4), setup(), "no data: set MIXTURE_OR_TASK_NAME"),
        (task_data("toy", LENGTHS, 4, module="nowhere"), setup(), "TaskData.module: cannot import"),
    ],
)
def test_what_does_not_fit_is_told_before_weights_are_made(data, made, line):
    with pytest.raises(UserError, match=line), made.mesh_model(data) as opened:
        assert not opened.model.built


def test_a_vocabulary_too_large_for_a_checkpoint_is_not_mended_by_a_larger_model(converted):
    checkpoint = "CHECKPOINT_PATH", converted[0]
    with (
        pytest.raises(UserError) as told,
        setup(vocab_size=300).mesh_model(DATA, checkpoint=checkpoint),
    ):
        pass
    assert str(told.value).endswith(
        "has 359 tokens, but the model's VOCAB_SIZE is 300: set VOCABULARY_PATH to the one that it "
        "was trained with, or give another task or CHECKPOINT_PATH"
    )

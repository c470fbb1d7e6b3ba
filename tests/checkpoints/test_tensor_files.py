import os

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.experimental import dtensor

from switch_tf import mesh as mesh_lib
from switch_tf.checkpoints import tensor_files
from tests.helpers import place, using

LAYOUTS = {
    "none": None,
    "batch:1": ("batch:1", "experts:batch"),
    "batch:8": ("batch:8", "experts:batch"),
    "batch:2,model:4": ("batch:2,model:4", "experts:batch,d_ff:model"),
    "model:4": ("model:4", "d_ff:model"),
}
PAIRS = [(a, b) for a in LAYOUTS for b in LAYOUTS if "batch:8" in (a, b) or "none" in (a, b)]
AXES = {"experts/wi": ("experts", "d_model", "d_ff"), "scale": ("d_model",), "step": ()}


def values(seed=0):
    """Arrays by name, with the numbers that rounding, or a wrong cast, would lose."""
    generator = np.random.default_rng(seed)
    wi = generator.standard_normal((8, 3, 4)).astype(np.float32)
    wi[0, 0] = [-0.0, np.nan, np.inf, 1e-40]
    scale = generator.standard_normal(3).astype(np.float32)
    return {"experts/wi": wi, "scale": scale, "step": np.int64(2**40 + seed)}


def variables(arrays):
    """Variables of host arrays, on the mesh in use."""
    make = tf.Variable if mesh_lib.current() is None else dtensor.DVariable
    return {name: make(place(array, AXES[name])) for name, array in arrays.items()}


def bits(value):
    return np.asarray(value).tobytes()


@pytest.mark.parametrize("written, read", PAIRS)
def test_what_one_layout_writes_another_reads_bit_for_bit(written, read, tmp_path):
    prefix, arrays = str(tmp_path / "state"), values()
    with using(LAYOUTS[written]):
        tensor_files.write(prefix, variables(arrays))
    with using(LAYOUTS[read]):
        targets = variables(values(seed=1))
        layouts = {name: getattr(v, "layout", None) for name, v in targets.items()}
        tensor_files.read(prefix, targets)
        for name, variable in targets.items():
            assert bits(mesh_lib.to_numpy(variable)) == bits(arrays[name]), name
            assert getattr(variable, "layout", None) == layouts[name]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tensorflow_reads_the_tensors_whole(layout, tmp_path):
    prefix, arrays = str(tmp_path / "state"), values()
    with using(LAYOUTS[layout]):
        tensor_files.write(prefix, variables(arrays))
    reader = tf.train.load_checkpoint(prefix)
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    assert reader.get_variable_to_shape_map() == shapes
    for name, array in arrays.items():
        assert bits(reader.get_tensor(name)) == bits(array), name


def test_the_replicas_of_a_tensor_are_written_once(tmp_path):
    sizes = {}
    for name, layout in LAYOUTS.items():
        with using(layout):
            scale = variables({"scale": np.zeros([64], np.float32)})
            tensor_files.write(str(tmp_path / name), scale)
        sizes[name] = os.path.getsize(tmp_path / f"{name}.data-00000-of-00001")
    assert sizes == dict.fromkeys(LAYOUTS, 64 * 4)


def test_only_the_variables_asked_for_are_read(tmp_path):
    prefix = str(tmp_path / "state")
    tensor_files.write(prefix, variables(values()))
    targets = variables(values(seed=1))
    tensor_files.read(prefix, {"scale": targets["scale"]})
    assert bits(targets["scale"].numpy()) == bits(values()["scale"])
    assert bits(targets["step"].numpy()) == bits(values(seed=1)["step"])


@pytest.mark.parametrize("layout", ["none", "batch:8"])
def test_a_name_or_a_shape_that_is_not_in_the_file_is_an_error(layout, tmp_path):
    prefix = str(tmp_path / "state")
    tensor_files.write(prefix, variables(values()))
    with using(LAYOUTS[layout]):
        targets = variables({"experts/wi": np.zeros([8, 3, 8], np.float32)})
        with pytest.raises(tf.errors.OpError, match="other"):
            tensor_files.read(prefix, {"other": targets["experts/wi"]})
        with pytest.raises(tf.errors.OpError, match="experts/wi"):
            tensor_files.read(prefix, targets)

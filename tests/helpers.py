"""What the tests of layers and models share."""

import contextlib
import functools
import math
import re
import uuid
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.experimental import dtensor

from switch_tf import config, gin_files
from switch_tf import mesh as mesh_lib
from switch_tf.commands.remembered import remember
from switch_tf.data.task_data import TaskData
from switch_tf.layers.context import collect
from switch_tf.layers.figures import Figures
from switch_tf.layers.routing import layer_figures
from switch_tf.layers.switch_ffn import SwitchFFN
from switch_tf.models.encoder_decoder import TransformerEncoderDecoder
from switch_tf.models.losses import cross_entropy

GOLDEN = Path(__file__).parent / "golden"
VOCAB = 64


def task_data(name, lengths, batch_size, **others):
    """`TaskData` in short."""
    return TaskData(
        mixture_or_task_name=name, task_feature_lengths=lengths, batch_size=batch_size, **others
    )


def with_run(folder, files, bindings, trains):
    """A command's bindings, with what it takes of the run of a small model, made in a folder.

    That is the run of its checkpoint, whatever path the command gives.
    """
    model = ["models/switch_tiny.gin", "runs/pretrain.gin"]
    said = gin_files.read(model, ["VOCABULARY_PATH='t5.model'"]).entries().items()
    lines = [f"{gin_files.written(key)} = {gin_files.text(value)}" for key, (value, _) in said]
    (folder / "config.gin").write_text("\n".join(lines))
    (folder / "checkpoint_7").mkdir()
    of_run = re.compile("CHECKPOINT_PATH=.*")
    bindings = [of_run.sub(f"CHECKPOINT_PATH='{folder}'", binding) for binding in bindings]
    return [*remember(files, bindings, trains, pytest.fail).statements, *bindings]


@contextlib.contextmanager
def on_ram(folder):
    """Copies a folder's files to TensorFlow's ram://, and yields their folder there."""
    place = f"ram://{uuid.uuid4().hex}"
    local = [path for path in folder.rglob("*") if path.is_file()]
    copies = [f"{place}/{path.relative_to(folder)}" for path in local]
    for path, copy in zip(local, copies, strict=True):
        with tf.io.gfile.GFile(copy, "wb") as file:
            file.write(path.read_bytes())
    yield place
    # A folder on ram:// is what its files' names begin with, which rmtree does not find.
    for copy in copies:
        tf.io.gfile.remove(copy)


# A function as users run it: compiled, without autograph.
compiled = functools.partial(tf.function, autograph=False)


def assert_same_batches(batches, others):
    """Lists of as many batches of host arrays, feature by feature."""
    assert len(batches) == len(others) > 0
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name], err_msg=name)


def joined(parts):
    """Global batches of those of each host, in the hosts' order."""
    return [
        {feature: np.concatenate([part[feature] for part in step]) for feature in step[0]}
        for step in zip(*parts, strict=True)
    ]


@contextlib.contextmanager
def using(layout=None):
    """A (mesh shape, layout rules) in use, yielding the mesh; None: no mesh, yielding None."""
    if layout is None:
        yield None
    else:
        with mesh_lib.use(mesh_lib.Mesh.create(*layout)) as mesh:
            yield mesh


# The paper's five (Fig. 9), each a file in gin/layouts.
LAYOUTS = ("data", "model", "model_data", "expert_data", "expert_model_data")


def layout_of(name):
    """(mesh shape, layout rules) of a layout's file, on eight devices."""
    given = config.precheck([f"layouts/{name}.gin"])
    shape = "model:8" if name == "model" else given["MESH_SHAPE"]
    return shape, given["LAYOUT_RULES"]


def place(value, axes=()):
    """A tensor of a host array, laid out over the mesh in use by its first axes' names."""
    value, mesh = np.asarray(value), mesh_lib.current()
    axes = tuple(axes) + (None,) * (value.ndim - len(axes))
    return tf.constant(value) if mesh is None else mesh.pack(value, axes)


def put(variable, value):
    """Assigns a host array to a layer's weight."""
    assert tuple(variable.shape) == value.shape, variable.path
    variable.value.assign(place(value, variable.axes))


def part_shapes(variable):
    """Shapes of what the devices hold of a weight or a slot."""
    value = variable.value if isinstance(variable, keras.Variable) else variable
    return {tuple(part.shape) for part in dtensor.unpack(value.read_value())}


def held_bytes(variable):
    """Bytes that one device really holds of a float32 weight or slot."""
    (shape,) = part_shapes(variable)
    return 4 * math.prod(shape)


def error(actual, expected):
    """Largest difference, relative to the largest expected value; both are finite."""
    actual = np.asarray(mesh_lib.to_numpy(actual) if tf.is_tensor(actual) else actual)
    expected = np.asarray(expected)
    assert actual.shape == expected.shape
    assert np.isfinite(actual).all() and np.isfinite(expected).all()
    scale = np.abs(expected).max()
    return float(np.abs(actual - expected).max() / (scale if scale else 1.0))


def tiny_model(num_experts=8, group_size=16, router=None, built=True, **kwargs):
    """A Switch Transformer of 2 + 2 layers, every other sparse."""
    options = {"group_size": group_size} | ({} if router is None else {"router": router})
    sizes = dict(d_model=16, d_kv=4, num_heads=8, d_ff=32, num_layers=2, expert_frequency=2)
    sizes |= {"vocab_size": VOCAB, "seed": 0}
    sizes["switch_ffn"] = functools.partial(SwitchFFN, num_experts, **options)
    model = TransformerEncoderDecoder(**(sizes | kwargs))
    if built:
        model.build()
    return model


def features_of(encoder_tokens, target_tokens):
    """Features of a batch as the data pipeline makes them, host arrays."""
    shifted = np.pad(target_tokens[:, :-1], ((0, 0), (1, 0)))
    arrays = {
        "encoder_input_tokens": encoder_tokens,
        "decoder_input_tokens": shifted,
        "decoder_target_tokens": target_tokens,
    }
    return {name: array.astype(np.int32) for name, array in arrays.items()}


def random_features(batch=8, encoder_length=16, decoder_length=8, seed=0):
    """Features of random tokens; every third input and target ends in padding."""
    generator = np.random.default_rng(seed)
    encoder = generator.integers(2, VOCAB, (batch, encoder_length))
    target = generator.integers(2, VOCAB, (batch, decoder_length))
    encoder[::3, -encoder_length // 3 :] = 0
    target[1::3, -decoder_length // 3 :] = 0
    return features_of(encoder, target)


def place_features(features):
    """Features on the mesh in use, spread over the batch."""
    return {name: place(array, ("batch",)) for name, array in features.items()}


def loss_and_gradients(model, features, z_loss_coef):
    """Of a training batch of host arrays: the loss, with the routers', and path -> gradient."""
    variables = model.trainable_variables

    @compiled
    def run(features):
        with tf.GradientTape() as tape, collect() as reports:
            logits_BLV = model(features, training=True)
            targets_BL = features["decoder_target_tokens"]
            loss = cross_entropy(logits_BLV, targets_BL, targets_BL > 0, z_loss_coef)[-1]
            loss += sum(report.loss() for report in reports)
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        # An untied embedding has a sparse one.
        return loss, *map(tf.convert_to_tensor, gradients)

    loss, *gradients = run(place_features(features))
    return loss, {v.path: g for v, g in zip(variables, gradients, strict=True)}


def figures_of(report):
    """What a log is given of a Switch layer's report."""
    figures = Figures()
    report.add_to(figures)
    return layer_figures(figures.unpack(figures.pack().numpy())[report.name])

import contextlib
import pathlib

import gin
import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.experimental import dtensor

from switch_tf import mesh as mesh_lib
from switch_tf.errors import UserError
from switch_tf.optimizers import adafactor
from switch_tf.optimizers.adafactor import Adafactor
from switch_tf.optimizers.schedules import constant, rsqrt

GOLDEN = pathlib.Path(__file__).parents[1] / "golden/mesh_tf/adafactor.npz"
STEPS = 3
# Variables of the golden run; `large` and `large_experts` are factored over their last two axes.
AXES = {
    "matrix": ("d_model", "d_ff"),
    "experts": ("experts", "d_model", "d_ff"),
    "vector": ("d_model",),
    "large": ("d_model", "d_ff"),
    "large_experts": ("experts", "d_model", "d_ff"),
    "heads": ("d_model", "heads", "d_kv"),
}
# Name -> mesh shape and layout rules; between them every axis of a factored variable is sharded.
MESHES = {
    "one": None,
    "data": ("batch:8", "batch:batch"),
    "width": ("batch:8", "batch:batch,d_model:batch"),
    "experts": ("batch:2,model:4", "batch:batch,experts:batch,d_ff:model,heads:model"),
    "mixed": ("batch:4,model:2", "batch:batch,d_model:batch,d_ff:model,heads:model"),
}
SCHEDULES = {"constant": lambda: constant(0.01), "rsqrt": lambda: rsqrt(warmup_steps=4)}


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


def use(name):
    """The mesh of that name in use; none for `one`."""
    return mesh_lib.use(mesh_lib.Mesh.create(*MESHES[name])) if MESHES[name] else _no_mesh()


@contextlib.contextmanager
def _no_mesh():
    yield None


def place(mesh, value, axes=()):
    return tf.constant(value) if mesh is None else mesh.pack(np.asarray(value), axes)


def variable(mesh, name, value, axes):
    placed = place(mesh, value, axes)
    made = tf.Variable(placed) if mesh is None else dtensor.DVariable(placed)
    return keras.Variable(made, name=name)


def golden_variables(mesh, golden):
    return [variable(mesh, name, golden[f"constant/{name}/w0"], AXES[name]) for name in AXES]


def gradients_of(golden, rate):
    return [[golden[f"{rate}/{name}/grad{step}"] for name in AXES] for step in range(STEPS)]


def run(mesh, optimizer, variables, gradients):
    """Applies `gradients`, a list of the variables' gradients for each step."""
    update = tf.function(lambda given, step: optimizer.apply(given, variables, step))
    for step, arrays in enumerate(gradients):
        given = [
            place(mesh, array, AXES[v.name]) for array, v in zip(arrays, variables, strict=True)
        ]
        update(given, place(mesh, np.int64(step)))


def assert_close(actual, expected, what):
    """To 1e-6 of each value, or of the array's mean size where a value nearly cancels."""
    np.testing.assert_allclose(
        actual if isinstance(actual, np.ndarray) else mesh_lib.to_numpy(actual),
        expected,
        rtol=1e-6,
        atol=1e-6 * np.abs(expected).mean(),
        err_msg=what,
    )


@pytest.mark.parametrize(
    "mesh_name, large",
    [(name, adafactor._LARGE) for name in MESHES] + [("one", 1), ("experts", 1), ("mixed", 4352)],
)
def test_weights_and_slots_are_mesh_tensorflows(golden, mesh_name, large, monkeypatch):
    monkeypatch.setattr(adafactor, "_LARGE", large)
    with use(mesh_name) as mesh:
        for rate, schedule in SCHEDULES.items():
            variables = golden_variables(mesh, golden)
            optimizer = Adafactor(schedule())
            optimizer.build(variables)
            run(mesh, optimizer, variables, gradients_of(golden, rate))
            for weight in variables:
                what = f"{rate}/{weight.name}"
                assert_close(weight, golden[f"{what}/w{STEPS}"], what)
                slots = optimizer.slots_of(weight)
                theirs = {k for k in golden if k.startswith(f"{what}/slots/")}
                assert {f"{what}/slots/w_slot_{kind}" for kind in slots} == theirs
                for kind, slot in slots.items():
                    assert_close(slot, golden[f"{what}/slots/w_slot_{kind}"], f"{what} {kind}")


def bytes_a_device(slot):
    return {part.numpy().nbytes for part in dtensor.unpack(slot.read_value())}


def test_slots_lie_where_their_variables_lie(golden):
    with use("mixed") as mesh:
        variables = golden_variables(mesh, golden)
        optimizer = Adafactor(constant(0.01), beta1=0.9)
        optimizer.build(variables)
        large = next(v for v in variables if v.name == "large")
        matrix = next(v for v in variables if v.name == "matrix")
        assert large.value.layout.sharding_specs == ["batch", "model"]
        for weight, kind, specs, size in [
            (large, "vr", ["batch"], 128 // 4),
            (large, "vc", ["model"], 136 // 2),
            (large, "m", ["batch", "model"], 128 * 136 // 8),
            (matrix, "v", ["batch", "model"], 16 * 32 // 8),
        ]:
            slot = optimizer.slots_of(weight)[kind]
            assert slot.layout.sharding_specs == specs
            assert slot.dtype == tf.float32
            assert bytes_a_device(slot) == {4 * size}


def test_factored_experts_keep_their_experts_apart(golden):
    with use("experts") as mesh:
        weight = variable(mesh, "wi", golden["constant/large_experts/w0"], AXES["large_experts"])
        optimizer = Adafactor(constant(0.01))
        optimizer.build([weight])
        slots = optimizer.slots_of(weight)
        assert slots["vr"].layout.sharding_specs == ["batch", dtensor.UNSHARDED]
        assert slots["vc"].layout.sharding_specs == ["batch", "model"]
        assert bytes_a_device(slots["vr"]) == {4 * 128}
        assert bytes_a_device(slots["vc"]) == {4 * 136 // 4}


def test_slots_are_named_by_path_and_kind():
    with keras.name_scope("encoder"), keras.name_scope("layer_0"):
        small = keras.Variable(np.ones([2, 3], np.float32), name="scale")
        large = keras.Variable(np.ones([128, 3, 200], np.float32), name="wi")
    optimizer = Adafactor(constant(0.01))
    optimizer.build([small, large])
    assert {name: tuple(slot.shape) for name, slot in optimizer.slots.items()} == {
        "encoder/layer_0/scale/v": (2, 3),
        "encoder/layer_0/wi/vr": (128, 3),
        "encoder/layer_0/wi/vc": (3, 200),
    }


def after(mesh_name, name, value, gradients, groups=None):
    """A weight and its slots after updates."""
    with use(mesh_name) as mesh:
        weight = variable(mesh, name, value, AXES[name])
        if groups is not None:
            weight.axis_groups = groups
        optimizer = Adafactor(constant(0.01))
        optimizer.build([weight])
        run(mesh, optimizer, [weight], [[gradient] for gradient in gradients])
        slots = {k: mesh_lib.to_numpy(v) for k, v in optimizer.slots_of(weight).items()}
        return mesh_lib.to_numpy(weight), slots


@pytest.mark.parametrize("mesh_name", ["one", "mixed"])
def test_axes_that_count_as_one_are_factored_as_one(mesh_name):
    """[d_model, heads, d_kv] gives the updates and slots of [d_model, heads · d_kv]."""
    generator = np.random.default_rng(0)
    value, *gradients = generator.normal(size=(4, 160, 4, 64)).astype(np.float32)
    ours, slots = after(mesh_name, "heads", value, gradients, groups=((0,), (1, 2)))
    flat, *gradients = (array.reshape(160, 256) for array in (value, *gradients))
    theirs, expected = after("one", "matrix", flat, gradients)
    assert_close(ours.reshape(160, 256), theirs, "weight")
    assert slots.keys() == expected.keys() == {"vr", "vc"}
    for kind, slot in slots.items():
        assert_close(slot.reshape(expected[kind].shape), expected[kind], kind)


def test_a_variables_update_does_not_depend_on_those_beside_it():
    """Of RMS 1 and 1e-2: each has its own scale and its own clip."""
    generator = np.random.default_rng(0)
    arrays = [(scale * generator.normal(size=(4, 5))).astype(np.float32) for scale in (1.0, 1e-2)]
    gradients = [generator.normal(size=(4, 5)).astype(np.float32) for _ in arrays]

    def updated_together(numbers):
        weights = [keras.Variable(arrays[i], name=f"w{i}") for i in numbers]
        optimizer = Adafactor(constant(0.1))
        optimizer.build(weights)
        step = tf.constant(0)
        tf.function(lambda: optimizer.apply([gradients[i] for i in numbers], weights, step))()
        return [weight.numpy() for weight in weights]

    together = updated_together([0, 1])
    for number in (0, 1):
        np.testing.assert_allclose(updated_together([number])[0], together[number], rtol=1e-6)


def test_a_large_variable_waits_for_no_other_gradient(monkeypatch):
    """So its own need not be held until the last one is there."""

    def others_waited_for():
        weights = [keras.Variable(np.ones((4, 5), np.float32), name=name) for name in "ab"]
        optimizer = Adafactor(constant(0.1))
        optimizer.build(weights)
        spec = tf.TensorSpec((4, 5), tf.float32)
        update = tf.function(lambda *given: optimizer.apply(given, weights, tf.constant(0)))
        graph = update.get_concrete_function(spec, spec).graph
        first, second = graph.inputs[:2]
        handles = [inner for outer, inner in graph.captures if outer is weights[0].value.handle]
        (assigned,) = (op for op in handles[0].consumers() if op.type == "AssignSubVariableOp")
        found, front = set(), [assigned.inputs[1]]
        while front:
            tensor = front.pop()
            if tensor.ref() not in found:
                found.add(tensor.ref())
                front += tensor.op.inputs
        return {first.ref(), second.ref()} <= found

    assert others_waited_for()
    monkeypatch.setattr(adafactor, "_LARGE", 20)
    assert not others_waited_for()


@pytest.mark.parametrize("saved_on, restored_on", [("mixed", "mixed"), ("mixed", "one")])
def test_slots_survive_a_checkpoint(golden, tmp_path, saved_on, restored_on):
    with use(saved_on) as mesh:
        variables = golden_variables(mesh, golden)
        optimizer = Adafactor(rsqrt(warmup_steps=4))
        optimizer.build(variables)
        run(mesh, optimizer, variables, gradients_of(golden, "rsqrt")[:1])
        path = tf.train.Checkpoint(optimizer=optimizer).write(str(tmp_path / "checkpoint"))
        saved = {name: mesh_lib.to_numpy(slot) for name, slot in optimizer.slots.items()}
    with use(restored_on) as mesh:
        restored = Adafactor(rsqrt(warmup_steps=4))
        restored.build(golden_variables(mesh, golden))
        status = tf.train.Checkpoint(optimizer=restored).read(path)
        status.assert_existing_objects_matched()
        assert set(restored.slots) == set(saved)
        for name, slot in restored.slots.items():
            assert np.any(saved[name])
            np.testing.assert_array_equal(mesh_lib.to_numpy(slot), saved[name], name)


def updated(optimizer, value, gradients, mesh=None):
    """The weight after an update by each gradient."""
    weight = variable(mesh, "matrix", np.array(value, np.float32), AXES["matrix"])
    optimizer.build([weight])
    run(mesh, optimizer, [weight], [[np.array(g, np.float32)] for g in gradients])
    return mesh_lib.to_numpy(weight)


# At the first step U = G / sqrt(G²), the sign of G, whose RMS of 1 is not clipped.
@pytest.mark.parametrize(
    "settings, value, expected",
    [
        ({}, [[3.0, 4.0]], [[3 - 0.1 * 12.5**0.5, 4 + 0.1 * 12.5**0.5]]),
        ({}, [[0.0, 0.0]], [[-0.1 * 1e-3, 0.1 * 1e-3]]),
        ({"multiply_by_parameter_scale": False}, [[3.0, 4.0]], [[2.9, 4.1]]),
        (
            {"multiply_by_parameter_scale": False, "clipping_threshold": 0.5},
            [[3, 4]],
            [[2.95, 4.05]],
        ),
        ({"multiply_by_parameter_scale": False, "beta1": 0.75}, [[3, 4]], [[2.975, 4.025]]),
        # U is the sign of G whatever its length.
        (
            {"multiply_by_parameter_scale": False, "global_norm_clip_threshold": 1e-3},
            [[3, 4]],
            [[2.9, 4.1]],
        ),
    ],
    ids=["scaled", "scaled_from_zero", "unscaled", "clipped", "momentum", "clipped_together"],
)
def test_first_update_by_hand(settings, value, expected):
    weight = updated(Adafactor(constant(0.1), **settings), value, [[[7.0, -0.2]]])
    np.testing.assert_allclose(weight, expected, rtol=1e-6)


def test_a_gradient_of_zero_changes_nothing():
    for size in (2, 128):
        value = np.ones([size, size])
        weight = updated(Adafactor(constant(0.1)), value, [0 * value] * 2)
        np.testing.assert_array_equal(weight, value)


def test_factoring_follows_its_settings():
    value = np.ones([128, 130], np.float32)
    for settings, kinds in [
        ({}, {"vr", "vc"}),
        ({"min_dim_size_to_factor": 129}, {"v"}),
        ({"factored": False}, {"v"}),
    ]:
        weight = keras.Variable(value, name="wi")
        optimizer = Adafactor(constant(0.1), **settings)
        optimizer.build([weight])
        assert set(optimizer.slots_of(weight)) == kinds


@pytest.mark.parametrize(
    "schedule, rate", [("constant.value=0.5", 0.5), ("rsqrt.warmup_steps=16", 0.25)]
)
def test_gin_chooses_the_schedule(schedule, rate):
    name = schedule.partition(".")[0]
    try:
        gin.parse_config(f"Adafactor.learning_rate=@schedules.{name}()\nschedules.{schedule}")
        assert float(Adafactor().learning_rate(0)) == rate
    finally:
        gin.clear_config()


def test_mistakes_are_named():
    with pytest.raises(UserError, match=r"Adafactor.learning_rate=0.01: give a schedule"):
        Adafactor(0.01)
    with pytest.raises(
        UserError, match=r"Adafactor.beta1=1.0: give a number of at least 0 and less than 1"
    ):
        Adafactor(constant(0.01), beta1=1.0)

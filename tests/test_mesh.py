import contextlib
import dataclasses
import os
import subprocess
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.experimental import dtensor

from switch_tf import mesh as mesh_lib
from switch_tf.errors import UserError
from switch_tf.hosts.local import free_addresses
from switch_tf.mesh import Mesh
from tests.helpers import using

AXES = "batch, length, experts, d_model, d_ff, heads, d_kv, "
AXES += "vocab, buckets"
NOT_A_SIZE = "is not a number >= 1"
BAD_SHAPES = {
    "": "MESH_SHAPE is empty: give at least 'batch:1'",
    " , ": "MESH_SHAPE is empty: give at least 'batch:1'",
    "batch": "MESH_SHAPE='batch': 'batch' is not of the form name:value",
    "batch:": "MESH_SHAPE='batch:': 'batch:' is not of the form name:value",
    ":4": "MESH_SHAPE=':4': ':4' is not of the form name:value",
    "a:1,b:2:3": "MESH_SHAPE='a:1,b:2:3': 'b:2:3' is not of the form name:value",
    "batch=4": "MESH_SHAPE='batch=4': 'batch=4' is not of the form name:value",
    "a:2,b:1,a:2": "MESH_SHAPE='a:2,b:1,a:2': 'a' appears twice; keep one",
    "batch:0": f"MESH_SHAPE='batch:0': size '0' of 'batch' {NOT_A_SIZE}",
    "batch:-2": f"MESH_SHAPE='batch:-2': size '-2' of 'batch' {NOT_A_SIZE}",
    "batch:2.0": f"MESH_SHAPE='batch:2.0': size '2.0' of 'batch' {NOT_A_SIZE}",
    "batch:two": f"MESH_SHAPE='batch:two': size 'two' of 'batch' {NOT_A_SIZE}",
    "batch:²": f"MESH_SHAPE='batch:²': size '²' of 'batch' {NOT_A_SIZE}",
}
BAD_RULES = {
    "batch": "LAYOUT_RULES='batch': 'batch' is not of the form name:value",
    "batch:batch,batch:model": (
        "LAYOUT_RULES='batch:batch,batch:model': 'batch' appears twice; keep one"
    ),
    "expert:model": f"LAYOUT_RULES='expert:model': no tensor has an axis 'expert'; axes are {AXES}",
    "d_ff:x": "LAYOUT_RULES='d_ff:x': the mesh has no dimension 'x'; it has batch, model: "
    "name it so in MESH_SHAPE, or set LAYOUT_RULES, too",
}
# Mesh shape, layout rules, axes of an [8, 4, 4] array, shape of a device's part.
LAYOUTS = {
    "one device": ("batch:1", "batch:batch", ("batch", "d_model", "d_ff"), (8, 4, 4)),
    "replicated": ("batch:4", "batch:batch", ("experts", "d_model", "d_ff"), (8, 4, 4)),
    "first axis": ("batch:8", "experts:batch", ("experts", "d_model", "d_ff"), (1, 4, 4)),
    "two axes": (
        "batch:2,model:4",
        "experts:batch,d_ff:model",
        ("experts", "d_model", "d_ff"),
        (4, 4, 1),
    ),
    "in turn": ("batch:2,model:4", "batch:model,d_ff:batch", ("batch", None, "d_ff"), (2, 4, 2)),
}


def line_of(function, *arguments):
    """The text of the UserError that a call raises."""
    with pytest.raises(UserError) as caught:
        function(*arguments)
    return str(caught.value)


@pytest.mark.parametrize(
    "text, shape",
    [
        ("batch:1", {"batch": 1}),
        ("batch:4,model:2", {"batch": 4, "model": 2}),
        (" model : 2 , batch:04, ", {"model": 2, "batch": 4}),
    ],
)
def test_a_mesh_shape_is_read_in_order(text, shape):
    assert list(mesh_lib.parse_mesh_shape(text).items()) == list(shape.items())


@pytest.mark.parametrize("text", BAD_SHAPES)
def test_a_bad_mesh_shape_is_one_line(text):
    assert line_of(mesh_lib.parse_mesh_shape, text) == BAD_SHAPES[text]


@pytest.mark.parametrize(
    "text, rules",
    [
        ("", {}),
        ("batch:batch", {"batch": "batch"}),
        (
            "batch:batch, experts:batch,d_ff:model",
            dict(batch="batch", experts="batch", d_ff="model"),
        ),
    ],
)
def test_layout_rules_are_read(text, rules):
    assert mesh_lib.parse_layout_rules(text, {"batch": 2, "model": 4}) == rules


@pytest.mark.parametrize("text", BAD_RULES)
def test_a_bad_layout_rule_is_one_line(text):
    found = line_of(mesh_lib.parse_layout_rules, text, {"batch": 2, "model": 4})
    assert found == BAD_RULES[text]


def test_every_axis_name_may_stand_in_a_rule():
    for axis in AXES.split(", "):
        assert mesh_lib.parse_layout_rules(f"{axis}:x", {"x": 2}) == {axis: "x"}


def test_meshes_are_read_and_checked_without_tensorflow():
    code = (
        "import sys; sys.modules['tensorflow'] = None;"
        "from switch_tf.mesh import check_divides, parse_layout_rules, parse_mesh_shape;"
        "shape = parse_mesh_shape('batch:4');"
        "check_divides(parse_layout_rules('d_ff:batch', shape), shape, {'d_ff': (6, 'D_FF')})"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.stderr.splitlines()[-1] == (
        "switch_tf.errors.UserError: D_FF=6 is not divisible by the 4 devices of mesh dimension "
        "'batch': change D_FF, MESH_SHAPE or LAYOUT_RULES"
    )


def test_sizes_that_divide_or_are_not_sharded_pass():
    sizes = {"batch": (8, "BATCH_SIZE"), "d_ff": (7, "D_FF"), "heads": (9, "NUM_HEADS")}
    rules = {"batch": "batch", "heads": "model"}
    mesh_lib.check_divides(rules, {"batch": 4, "model": 3}, sizes)


@pytest.mark.parametrize(
    "shape, devices", [("batch:9", 9), ("batch:4,model:4", 16), ("a:3,b:3,c:1", 9)]
)
def test_a_mesh_of_more_devices_than_there_are_is_one_line(shape, devices):
    assert line_of(Mesh.create, shape) == (
        f"MESH_SHAPE='{shape}' needs {devices} CPU devices, but there are 8: make it smaller"
    )


def test_a_mesh_of_fewer_devices_than_there_are_takes_the_first():
    mesh = Mesh.create("batch:2,model:2")
    assert mesh.size == 4
    assert [d[-5:] for d in mesh.dtensor_mesh.local_devices()] == [f"CPU:{i}" for i in range(4)]


def test_a_mesh_that_does_not_divide_over_the_processes_is_one_line(monkeypatch):
    monkeypatch.setenv("DTENSOR_JOBS", "localhost:1,localhost:2")
    assert line_of(Mesh.create, "batch:5,model:3") == (
        "MESH_SHAPE='batch:5,model:3' has 15 devices, which 2 hosts cannot share: make it a "
        "multiple of them"
    )


def test_the_places_of_a_process_are_those_of_its_devices():
    second = SimpleNamespace(local_device_ids=lambda: [2, 3])
    mesh = dataclasses.replace(
        Mesh.on_paper("batch:2,model:2", "batch:batch,d_ff:model"), dtensor_mesh=second
    )
    every = mesh.global_places(("batch", "d_ff"), (4, 6))
    assert len(every) == 4
    assert mesh.local_places(("batch", "d_ff"), (4, 6)) == every[2:]
    assert every[2] == (slice(2, 4), slice(0, 3))


PROCESS = """
from switch_tf import runtime
runtime.start(4)
import os
import sys
import numpy as np
import tensorflow as tf
from tensorflow.experimental import dtensor
from switch_tf import mesh as mesh_lib
from switch_tf.optimizers.base import zeros_like
mesh = mesh_lib.Mesh.create("batch:2,model:2", "batch:batch,d_ff:model")
value = np.arange(16, dtype=np.float32).reshape(4, 4)
with mesh_lib.use(mesh):
    packed = mesh.pack(value, ("batch", "d_ff"))
    held = sum(part.numpy().sum() for _, part in mesh_lib.local_shards(packed))
    total = mesh_lib.to_numpy(tf.reduce_sum(packed))
    whole = mesh_lib.to_numpy(packed)
    zeros = zeros_like(dtensor.DVariable(packed), "zeros")
    assert not mesh_lib.to_numpy(zeros).any() and zeros.shape == [4, 4]
dtensor.barrier(mesh.dtensor_mesh)
print(runtime.is_chief(), held, total, (whole == value).all(), flush=True)
# The first process serves the barrier: it stays until the other has passed it.
sys.stdin.read()
os._exit(0)
"""


def test_two_processes_hold_their_own_parts_of_one_mesh():
    jobs = ",".join(free_addresses(2))
    started = []
    for client in range(2):
        own = {"DTENSOR_CLIENT_ID": str(client), "DTENSOR_JOBS": jobs}
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", PROCESS],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | own,
            )
        )
    try:
        # The input is closed by `communicate`, so the second process ends before the first.
        outputs = [process.communicate(timeout=300) for process in reversed(started)][::-1]
    finally:
        for process in started:
            process.kill()
    # The rows 0 to 1 and 2 to 3 of the whole, whose sum both know.
    for (told, errors), expected in zip(outputs, ("True 28.0", "False 92.0"), strict=True):
        assert told == f"{expected} 120.0 True\n", errors


def test_two_axes_of_a_tensor_on_one_mesh_dimension_are_one_line():
    mesh = Mesh.create("batch:2,model:2", "d_model:model,d_ff:model")
    assert line_of(mesh.layout, ("experts", "d_model", "d_ff")) == (
        "LAYOUT_RULES map two axes of a tensor ('experts', 'd_model', 'd_ff') to the same mesh "
        "dimension, ['unsharded', 'model', 'model']: remove one of the two rules"
    )
    # Each alone is right, in other tensors.
    assert mesh.spec(("experts", "d_model")) == ["unsharded", "model"]
    assert mesh.spec(("d_ff", None)) == ["model", "unsharded"]


def test_an_array_that_does_not_divide_is_one_line():
    mesh = Mesh.create("batch:4", "heads:batch")
    assert line_of(mesh.pack, np.zeros([2, 6]), (None, "heads")) == (
        "heads=6 is not divisible by the 4 devices of mesh dimension 'batch': change heads, "
        "MESH_SHAPE or LAYOUT_RULES"
    )


def test_ways_are_the_parts_of_an_axis():
    mesh = Mesh.create("batch:2,model:4", "batch:batch,d_ff:model")
    assert [mesh.ways(axis) for axis in ("batch", "d_ff", "d_model")] == [2, 4, 1]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_device_gets_its_slice_and_the_whole_comes_back(name):
    shape, rules, axes, part_shape = LAYOUTS[name]
    mesh = Mesh.create(shape, rules)
    value = np.arange(128, dtype=np.float32).reshape(8, 4, 4)
    packed = mesh.pack(value, axes)
    assert dtensor.fetch_layout(packed) == mesh.layout(axes)
    parts = dtensor.unpack(packed)
    assert len(parts) == mesh.size
    assert {tuple(part.shape) for part in parts} == {part_shape}
    places = mesh.global_places(axes, value.shape)
    for place, part in zip(places, parts, strict=True):
        np.testing.assert_array_equal(part, value[place])
    # One process has all devices.
    assert places == mesh.local_places(axes, value.shape) == mesh_lib.local_places(packed)
    np.testing.assert_array_equal(mesh_lib.to_numpy(packed), value)


@pytest.mark.parametrize("name", LAYOUTS)
def test_local_shards_cover_the_whole_once(name):
    shape, rules, axes, part_shape = LAYOUTS[name]
    packed = Mesh.create(shape, rules).pack(np.zeros([8, 4, 4]), axes)
    times = np.zeros([8, 4, 4])
    for place, part in mesh_lib.local_shards(packed):
        assert tuple(part.shape) == part_shape
        times[place] += 1
    assert (times == 1).all()


@pytest.mark.parametrize("layout", [None, ("batch:2,model:4", "batch:batch,d_ff:model")])
def test_to_numpy_reads_tensors_and_variables(layout):
    value = np.arange(32, dtype=np.int32).reshape(4, 8)
    with using(layout) as mesh:
        tensor = tf.constant(value) if mesh is None else mesh.pack(value, ("batch", "d_ff"))
        variable = tf.Variable(tensor) if mesh is None else dtensor.DVariable(tensor)
        for held in (tensor, variable, keras.Variable(variable)):
            np.testing.assert_array_equal(mesh_lib.to_numpy(held), value)


def test_to_numpy_reads_a_scalar():
    assert mesh_lib.to_numpy(Mesh.create("batch:8").pack(np.float32(2.5), ())) == 2.5


def test_the_innermost_mesh_is_in_use_and_an_error_leaves_it():
    outer, inner = Mesh.create("batch:2"), Mesh.create("batch:8")
    assert mesh_lib.current() is None
    with mesh_lib.use(outer):
        with contextlib.suppress(ZeroDivisionError), mesh_lib.use(inner) as used:
            assert used is mesh_lib.current() is inner
            raise ZeroDivisionError
        assert mesh_lib.current() is outer
        assert dtensor.fetch_layout(tf.zeros([2])).mesh == outer.dtensor_mesh
    assert mesh_lib.current() is None
    assert not dtensor.is_dtensor(tf.zeros([2]))


def test_the_host_is_outside_the_mesh():
    with mesh_lib.use(Mesh.create("batch:2")):
        assert dtensor.is_dtensor(tf.zeros([2]))
        with mesh_lib.host():
            assert not dtensor.is_dtensor(tf.zeros([2]))

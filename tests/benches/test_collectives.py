"""What the collectives' benchmark times, and what it says of it."""

import json

import gin
import pytest

from switch_tf.benches import collectives as bench
from switch_tf.commands import main as main_module
from switch_tf.errors import UserError
from switch_tf.planner import lowered
from tests.helpers import compiled, using

FILES = ["--gin_file=models/switch_tiny.gin", "--gin_file=runs/plan.gin"]
SETTINGS = {"bench_collectives.sizes": [64], "bench_collectives.rounds": 2}


@pytest.fixture(autouse=True)
def no_configuration_left():
    yield
    gin.clear_config()


@pytest.mark.parametrize("kind", bench.KINDS)
@pytest.mark.parametrize("dimension", ["batch", "model"])
def test_each_call_is_the_collective_that_it_is_named_for(kind, dimension):
    with using(("batch:4,model:2", "batch:batch,d_ff:model")) as mesh:
        function, argument = bench.KINDS[kind](mesh, dimension, 64)

        def collective(x_NX):
            return function(x_NX)

        (found,) = lowered.collectives(lowered.lower(compiled(collective), argument))
    devices = mesh.shape[dimension]
    if kind == "all-gather":
        # On CPU, DTensor sums the arrays of all, each in its place.
        assert (found.kind, found.bytes) == ("all-reduce", 4 * 64 * devices)
    else:
        assert (found.kind, found.bytes) == (kind, 4 * 64)
    assert found.devices == devices


def test_each_kind_is_timed_along_each_dimension_and_written(tmp_path, capsys):
    path = tmp_path / "found.json"
    given = SETTINGS | {"MESH_SHAPE": "batch:4,model:2", "bench_collectives.output_path": str(path)}
    flags = [f"--gin.{name}={value!r}" for name, value in given.items()]
    layout = "--gin_file=layouts/expert_model_data.gin"
    main_module.main(["bench", "collectives", *FILES, layout, *flags])
    heading, names, *rows = capsys.readouterr().out.splitlines()
    assert heading.startswith("float32 on 8 CPU devices, ")
    assert [row.split()[:3] for row in rows] == [
        [kind, dimension, devices]
        for dimension, devices in (("batch", "4"), ("model", "2"))
        for kind in bench.KINDS
    ]
    for one in json.loads(path.read_text())["collectives"]:
        assert one["bytes_per_device"] == 256
        seconds = one["collective_seconds"]
        assert one["bytes_per_second_per_device"] == pytest.approx(256 / seconds)
        assert one["collective_seconds_lower_quartile"] <= seconds


def test_one_device_exchanges_nothing(capsys):
    with pytest.raises(SystemExit):
        main_module.main(["bench", "collectives", *FILES])
    assert "one device exchanges nothing: add a layout" in capsys.readouterr().err


def test_a_size_that_the_devices_do_not_divide_is_named():
    with (
        using(("batch:4", "batch:batch")) as mesh,
        pytest.raises(UserError, match="sizes: 6 elements are not"),
    ):
        bench._call(mesh, "batch", bench.all_reduce, 6)

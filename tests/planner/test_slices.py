import re
from pathlib import Path

import pytest

from switch_tf import accelerators, gin_files
from switch_tf.cloud import tpu as cloud
from switch_tf.errors import UserError
from switch_tf.mesh import Mesh
from switch_tf.planner.slices import CHIPS, Slice, groups
from switch_tf.reproduce import paper_slices

# What Google Cloud's names count: TensorCores of v2, v3, v4 and v5p, chips of v5e and v6e.
NAMES = {
    "v2-32": (16, 32),
    "v3-32": (16, 32),
    "v4-32": (16, 16),
    "v5p-128": (64, 64),
    "v5e-256": (256, 256),
    "v5litepod-16": (16, 16),
    "v6e-256": (256, 256),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_counts_what_its_type_counts(name):
    found = Slice.parse(name)
    assert (found.chips, found.devices) == NAMES[name]
    assert found.name == name.replace("v5litepod", "v5e")


@pytest.mark.parametrize("name", ["v3", "v7-8", "v3-0", "v3-x", "", "v4-32-16"])
def test_a_name_of_no_slice_is_refused_with_the_types(name):
    told = f"--slice='{name}': give TYPE-NUMBER, such as v3-32 or v6e-256; types are v2, v3, v4, v5"
    with pytest.raises(UserError, match=re.escape(told)):
        Slice.parse(name)


def test_the_planner_the_scripts_and_the_start_of_a_run_mean_the_same_types():
    """Each has what it needs of a type, and none imports the others."""
    asked = {Slice.parse(f"{name}-8").chip.name for name in cloud.RUNTIMES}
    found = [
        name for names, *_ in accelerators._GENERATIONS.values() for name in names.split(" or ")
    ]
    assert asked == set(found) == set(CHIPS)
    assert len(found) == len(CHIPS) == len(cloud.RUNTIMES)


def test_the_planner_and_the_scripts_count_the_same_in_the_name_of_a_slice():
    for name in cloud.RUNTIMES:
        assert (name in cloud._COUNT_CORES) == Slice.parse(f"{name}-8").chip.counts_cores
    assert set(cloud._COUNT_CORES) <= set(cloud.RUNTIMES)
    # Eight cores are a machine of four chips, which both take.
    for name in cloud._COUNT_CORES:
        cloud.Request(f"{name}-8").check()
        assert Slice.parse(f"{name}-8").chips == 4


def test_the_planner_and_the_start_of_a_run_make_the_same_devices_of_a_chip():
    for names, devices, has_megacore in accelerators._GENERATIONS.values():
        for name in names.split(" or "):
            chip = CHIPS[name]
            assert devices == chip.devices, name
            assert has_megacore == (chip.cores > chip.devices), name


def test_a_file_of_gin_slices_is_of_the_slice_that_its_name_says():
    folder = Path(gin_files.__file__).parent.parent / "gin/slices"
    files = sorted(folder.glob("*.gin"))
    assert len(files) >= 5
    for path in files:
        mesh_shape = gin_files.read([f"slices/{path.name}"]).macros["MESH_SHAPE"].value
        devices = Slice.parse(path.stem.replace("_", "-")).devices
        assert Mesh.on_paper(mesh_shape).size == devices, path.name


def test_the_slices_of_the_papers_runs_can_be_asked_for():
    for size in paper_slices.SIZES:
        name = f"{paper_slices.TYPE}-{size}"
        cloud.Request(name).check()
        assert Slice.parse(name).devices == size


def test_half_a_chip_is_refused():
    with pytest.raises(UserError, match="--slice='v4-31': the number of a v4 counts TensorCores"):
        Slice.parse("v4-31")


@pytest.mark.parametrize("name, sides", [("v3-32", (4, 4)), ("v4-32", (2, 2, 4))])
def test_the_torus_of_a_slice_is_that_of_its_documentation(name, sides):
    assert Slice.parse(name).sides == sides


@pytest.mark.parametrize("name", ["v3-2048", "v5e-256", "v4-128", "v5p-128"])
def test_whole_pods_and_cubes_are_rings(name):
    found = Slice.parse(name)
    assert all(map(found.is_ring, found.sides))


@pytest.mark.parametrize("name", ["v3-32", "v3-512", "v5e-64", "v4-32"])
def test_parts_of_them_are_lines(name):
    found = Slice.parse(name)
    assert not any(map(found.is_ring, found.sides))


def test_figures_are_as_the_documentation_has_them():
    """Bidirectional bandwidth of all links of a chip, in GB/s, where it is given so."""
    for name, links in {"v5e": 400, "v5p": 1200, "v6e": 800}.items():
        chip = CHIPS[name]
        assert 2 * 2 * chip.torus * chip.link_bandwidth == links * 1e9
    for chip in CHIPS.values():
        assert chip.flops["bfloat16"] > 1e13 and chip.source


def test_the_last_dimension_of_a_mesh_has_the_cores_of_a_chip():
    batch, model = groups((4, 8), Slice.parse("v3-32"))
    assert (batch.on_chip, batch.devices) == (1, 4)
    assert (model.on_chip, model.devices) == (2, 8)


@pytest.mark.parametrize("name", ["v3-32", "v4-128", "v6e-256", "v3-16384"])
@pytest.mark.parametrize("model", [1, 2, 8, 32])
def test_groups_have_the_devices_of_their_dimension(name, model):
    on = Slice.parse(name)
    sizes = (on.devices // model, model)
    assert tuple(group.devices for group in groups(sizes, on)) == sizes


def test_an_all_reduce_by_hand():
    """v5e-256, a ring of 16 on both sides: 2 (n - 1) / n bytes over four links of 50 GB/s."""
    (group,) = groups((256,), Slice.parse("v5e-256"))
    assert group.all_reduce_seconds(1e9) == pytest.approx(2 * 255 / 256 * 1e9 / (4 * 50e9))


def test_an_all_to_all_by_hand():
    """v3-32, a line of 4: two chips send half of what their two cores have over one link."""
    (group,) = groups((32,), Slice.parse("v3-32"))
    assert group.all_to_all_seconds(1e9) == pytest.approx(2 * 2 * 1e9 / 2 / 82e9)


def test_a_line_takes_twice_as_long_as_a_ring():
    """Of eight chips in v5e-64, whose sides are lines, and of sixteen in v5e-256."""
    (line,), (ring,) = (groups((n,), Slice.parse(f"v5e-{n}")) for n in (64, 256))
    assert line.all_to_all_seconds(1.0) / ring.all_to_all_seconds(1.0) == pytest.approx(8 / 4 / 2)


def test_one_device_exchanges_nothing():
    (group,) = groups((1,), Slice.parse("v6e-1"))
    assert group.all_reduce_seconds(1e9) == group.all_to_all_seconds(1e9) == 0.0

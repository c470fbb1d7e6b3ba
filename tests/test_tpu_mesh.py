"""The order of TPU devices in a mesh, by DTensor's own code on topologies that are made up."""

import itertools

import numpy as np
import pytest
from tensorflow.dtensor.python import config, tpu_util
from tensorflow.experimental import dtensor

from switch_tf import mesh as mesh_lib
from switch_tf import runtime
from switch_tf.errors import UserError
from switch_tf.mesh import Mesh


class Runtime:
    """In place of the part of DTensor that talks to libtpu; keeps what it is asked."""

    def tpu_core_locations_to_ids(self, locations):
        self.order = [tuple(location) for location in locations]
        return list(range(len(locations)))

    def set_tpu_core_ids(self, name, ids):
        self.name = name


@pytest.fixture
def slice_of(monkeypatch):
    """Makes this process the first host of a slice of chips, each with so many devices."""

    def make(x, y, z, per_chip):
        blocks = itertools.product(range(z), range(0, y, 2), range(0, x, 2))
        # Each host has a square of chips.
        hosts = [
            [(bx + i, by + j, bz, k) for j in range(2) for i in range(2) for k in range(per_chip)]
            for bz, by, bx in blocks
        ]
        locations = [tpu_util._CoreLocation(*place) for host in hosts for place in host]
        topology = tpu_util._create_tpu_topology(locations, len(hosts), len(hosts[0]))
        told = Runtime()
        monkeypatch.setattr(tpu_util, "_tpu_topology", topology)
        monkeypatch.setattr(tpu_util, "_all_core_locations", locations)
        monkeypatch.setattr(tpu_util, "_dtensor_device", told)
        monkeypatch.setattr(config, "num_local_devices", lambda kind: len(hosts[0]))
        monkeypatch.setattr(config, "num_global_devices", lambda kind: len(locations))
        monkeypatch.setattr(dtensor, "num_global_devices", lambda kind: len(locations))
        monkeypatch.setattr(runtime, "_device_type", "TPU")
        return told, hosts

    return make


def furthest(order, sizes):
    """Dimension -> most hops between neighbours in it, the last and the first included."""
    places = np.array(order)[:, :3].reshape(*sizes, 3)
    hops = (np.abs(places - np.roll(places, 1, axis)).sum(-1) for axis in range(len(sizes)))
    return [int(hop.max()) for hop in hops]


V3_32, V4_32, V5E_256 = (4, 4, 1, 2), (2, 2, 4, 1), (16, 16, 1, 1)


@pytest.mark.parametrize(
    "chips, shape, ours, by_default",
    [
        (V3_32, "batch:32", [1], [6]),
        (V3_32, "batch:16,model:2", [1, 0], [6, 0]),
        (V4_32, "batch:16", [1], [5]),
        (V4_32, "batch:8,model:2", [1, 1], [4, 1]),
        (V5E_256, "batch:256", [1], [30]),
        (V5E_256, "batch:32,model:8", [8, 7], [23, 7]),
    ],
)
def test_neighbours_in_the_mesh_are_near_in_the_torus(slice_of, chips, shape, ours, by_default):
    told, hosts = slice_of(*chips)
    made = Mesh.create(shape)
    sizes = list(made.shape.values())
    assert furthest(told.order, sizes) == ours
    # This host's shards are those of the places where its devices lie.
    local = made.dtensor_mesh.local_device_ids()
    assert [told.order[device] for device in local] == hosts[0]
    dtensor.create_tpu_mesh(list(made.shape), sizes, mesh_name="default")
    assert furthest(told.order, sizes) == by_default


def test_the_name_of_a_mesh_is_the_same_on_all_hosts(slice_of):
    told, _ = slice_of(*V4_32)
    assert Mesh.create("batch:8,model:2").dtensor_mesh.name == told.name == "batch_8_model_2"


@pytest.mark.parametrize("shape", ["batch:8", "batch:32"])
def test_a_mesh_that_is_not_of_all_devices_is_one_line(slice_of, shape):
    slice_of(*V4_32)
    with pytest.raises(UserError) as error:
        Mesh.create(shape)
    needs = shape.partition(":")[2]
    assert str(error.value) == (
        f"MESH_SHAPE='{shape}' needs {needs} TPU devices, but there are 16: give sizes whose "
        "product is 16"
    )


def test_the_rows_of_a_batch_go_to_the_host_whose_devices_hold_them(slice_of):
    _, hosts = slice_of(*V4_32)
    made = Mesh.create("batch:8,model:2", "batch:batch")
    ids = made.dtensor_mesh.local_device_ids()
    rows = [place[0] for place in made.local_places(("batch",), (8,))]
    assert [row.start for row in rows] == [device // 2 for device in ids]
    assert len(ids) == len(hosts[0]) == 4 and mesh_lib.current() is None

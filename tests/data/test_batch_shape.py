import dataclasses
import types

import numpy as np
import pytest

from switch_tf import mesh as mesh_lib
from switch_tf.data.batch_shape import (
    check_batch,
    count_tokens,
    feature_axes,
    host_rows,
    local_rows,
)
from switch_tf.errors import UserError

LENGTHS = {"inputs": 32, "targets": 24}


def test_unknown_feature_has_no_axes():
    with pytest.raises(KeyError):
        feature_axes("labels")


@pytest.mark.parametrize(
    "batch_size, mesh, rules, message",
    [
        (6, "batch:4", "batch:batch", "BATCH_SIZE=6 .*MESH_SHAPE"),
        (4, "batch:2,model:5", "length:model", r"TASK_FEATURE_LENGTHS\['inputs'\]=32 .*MESH_SHAPE"),
    ],
)
def test_batch_that_does_not_divide_is_refused(batch_size, mesh, rules, message):
    shape = mesh_lib.parse_mesh_shape(mesh)
    with pytest.raises(UserError, match=message):
        check_batch(batch_size, LENGTHS, mesh_lib.parse_layout_rules(rules, shape), shape)


def test_batch_that_divides_is_accepted():
    check_batch(8, LENGTHS, {"batch": "batch", "length": "model"}, {"batch": 4, "model": 8})


def test_tokens_that_are_not_padding_are_counted():
    batch = {
        "encoder_input_tokens": np.array([[3, 1, 0], [4, 5, 1]]),
        "decoder_target_tokens": np.array([[1, 0], [0, 0]]),
    }
    assert count_tokens(batch) == (5, 1)


def test_the_tokens_of_a_batch_are_estimated_from_the_rows_that_are_made():
    batch = {
        "encoder_input_tokens": np.array([[0, 0, 0], [4, 5, 1], [0, 0, 0], [2, 1, 0]]),
        "decoder_target_tokens": np.array([[0, 0], [2, 1], [0, 0], [1, 0]]),
    }
    assert count_tokens(batch, [1, 3]) == (10, 6)


@pytest.mark.parametrize(
    "shape, devices, rows",
    [
        ("batch:4", [0, 1], [0, 1, 2, 3]),
        ("batch:4", [2, 3], [4, 5, 6, 7]),
        ("batch:2,model:2", [2, 3], [4, 5, 6, 7]),
        # Hosts that split the weights, but not the batch.
        ("model:2,batch:2", [2, 3], [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_a_host_needs_the_rows_of_its_devices(shape, devices, rows):
    mesh = mesh_lib.Mesh.on_paper(shape, "batch:batch")
    there = types.SimpleNamespace(local_device_ids=lambda: devices)
    assert local_rows(8, dataclasses.replace(mesh, dtensor_mesh=there)) == rows


def test_hosts_share_the_rows_of_a_batch_out():
    parts = [host_rows(8, host, 4) for host in range(4)]
    assert [row for part in parts for row in part] == list(range(8))
    with pytest.raises(
        UserError, match="BATCH_SIZE=8 is not divisible by 3 hosts: give a multiple"
    ):
        host_rows(8, 0, 3)


def test_a_batch_of_another_setting_is_named_by_it():
    with pytest.raises(UserError, match="^Evaluation.batch_size=3 is not divisible by the 2 dev"):
        check_batch(3, LENGTHS, {"batch": "batch"}, {"batch": 2}, "Evaluation.batch_size")

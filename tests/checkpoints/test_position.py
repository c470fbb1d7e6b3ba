import os

import numpy as np
import pytest

from switch_tf import mesh as mesh_lib
from switch_tf.checkpoints.position import Position
from switch_tf.data import features
from switch_tf.errors import UserError
from switch_tf.hosts import agreement
from tests.helpers import task_data

LENGTHS = {"inputs": 8, "targets": 8}


def iterator(rows=8, wanted=None, name="toy_files"):
    with mesh_lib.host():
        return iter(features.train_batches(task_data(name, LENGTHS, rows), wanted))


def targets(iterator):
    with mesh_lib.host():
        return np.asarray(next(iterator)["decoder_target_tokens"])


def test_the_shares_of_two_hosts_are_saved_each_once_and_one_goes_on_with_them(
    tmp_path, monkeypatch
):
    whole = iterator()
    first, second = iterator(wanted=range(4)), iterator(wanted=range(2, 8))
    for _ in range(5):
        for each in (whole, first, second):
            targets(each)
    monkeypatch.setattr(agreement, "is_alone", lambda: False)
    monkeypatch.setattr(agreement, "to_chief", lambda *_: [])
    monkeypatch.setattr(agreement, "from_chief", lambda *_: '["[0, 1]", "[1, 2, 3]"]')
    for host, each in enumerate((first, second)):
        monkeypatch.setenv("DTENSOR_CLIENT_ID", str(host))
        Position(each).write(str(tmp_path))
    monkeypatch.undo()
    indices = sorted(name for name in os.listdir(tmp_path) if name.endswith(".index"))
    assert indices == [f"data.share-{n:05d}-of-00004.index" for n in range(4)]
    restored = iterator()
    Position(restored).read(str(tmp_path))
    for _ in range(10):
        np.testing.assert_array_equal(targets(restored), targets(whole))


def test_a_host_writes_only_what_no_host_before_it_makes(tmp_path, monkeypatch):
    monkeypatch.setattr(agreement, "is_alone", lambda: False)
    monkeypatch.setattr(agreement, "to_chief", lambda *_: [])
    monkeypatch.setattr(agreement, "from_chief", lambda *_: '["[0, 1]", "[1, 2, 3]"]')
    monkeypatch.setenv("DTENSOR_CLIENT_ID", "1")
    Position(iterator(wanted=range(2, 8))).write(str(tmp_path))
    written = {name[:16] for name in os.listdir(tmp_path)}
    assert written == {"data.share-00002", "data.share-00003"}


@pytest.mark.parametrize(
    "saved, resumed, said",
    [
        ({}, {"rows": 6}, "read its data in 4 shares, but this one reads them in 3 shares"),
        ({}, {"name": "toy_copy"}, "in 4 shares, but this one reads them in one piece"),
        ({"name": "toy_copy"}, {}, "in one piece, but this one reads them in 4 shares"),
    ],
)
def test_a_position_in_other_shares_is_refused(saved, resumed, said, tmp_path):
    Position(iterator(**saved)).write(str(tmp_path))
    with pytest.raises(UserError, match=f"checkpoint '{tmp_path}' belongs to a run that .*{said}"):
        Position(iterator(**resumed)).read(str(tmp_path))

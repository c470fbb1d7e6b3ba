import os

import numpy as np
import pytest
import seqio

from switch_tf import mesh as mesh_lib
from switch_tf.checkpoints.position import Position
from switch_tf.data import features
from switch_tf.errors import UserError
from switch_tf.hosts import agreement
from tests import toy_task
from tests.data import cached_tasks
from tests.helpers import task_data

LENGTHS = {"inputs": 8, "targets": 8}


def iterator(shares=2, wanted=None, pack=True):
    with mesh_lib.host():
        data = task_data("toy_copy", LENGTHS, 8, shares=shares, pack=pack, module=toy_task.__name__)
        return iter(features.train_batches(data, wanted))


def targets(iterator):
    with mesh_lib.host():
        return np.asarray(next(iterator)["decoder_target_tokens"])


def test_the_shares_of_two_hosts_are_saved_each_once_and_one_goes_on_with_them(
    tmp_path, monkeypatch
):
    """Two hosts, of which the second makes all shares, but writes only what the first does not."""
    whole, hosts = iterator(), [iterator(wanted=[0]), iterator(wanted=[0, 7])]
    for each in (whole, *hosts):
        for _ in range(5):
            targets(each)
    monkeypatch.setattr(agreement, "is_alone", lambda: False)
    monkeypatch.setattr(agreement, "to_chief", lambda *_: [])
    monkeypatch.setattr(agreement, "from_chief", lambda *_: '["[0]", "[0, 1]"]')
    for host, each in enumerate(hosts):
        monkeypatch.setenv("DTENSOR_CLIENT_ID", str(host))
        Position(each).write(str(tmp_path))
        written = sorted(name for name in os.listdir(tmp_path) if name.endswith(".index"))
        assert written == [f"data.share-{n:05d}-of-00002.index" for n in range(host + 1)]
    monkeypatch.undo()
    restored = iterator()
    Position(restored).read(str(tmp_path))
    for _ in range(10):
        np.testing.assert_array_equal(targets(restored), targets(whole))


@pytest.mark.parametrize("saved, resumed", [(2, 1), (1, 2)])
def test_a_position_in_other_shares_is_refused(saved, resumed, tmp_path):
    Position(iterator(saved)).write(str(tmp_path))
    told = (
        f"checkpoint '{tmp_path}' belongs to a run with TaskData.shares={saved}, which reads the "
        f"data in another order than {resumed}: set it to {saved}, or use another MODEL_DIR"
    )
    with pytest.raises(UserError, match=f"^{told}"):
        Position(iterator(resumed)).read(str(tmp_path))


def test_a_position_in_other_data_is_refused(tmp_path):
    Position(iterator(2)).write(str(tmp_path))
    with pytest.raises(UserError, match="belongs to a run on other data: use its MIXTURE_OR"):
        Position(iterator(2, pack=False)).read(str(tmp_path))


def test_positions_in_a_cache_and_in_a_pipeline_are_told_apart(tmp_path):
    cached_tasks.forget()
    cached_tasks.write(tmp_path / "cache", "cached_pairs")
    seqio.add_global_cache_dirs([str(tmp_path / "cache")])
    with mesh_lib.host():
        data = task_data("cached_pairs", LENGTHS, 8, use_cached=True)
        cached = iter(features.train_batches(data))
    cached_tasks.forget()
    positions = {True: Position(cached), False: Position(iterator())}
    for is_cached, other in ((True, False), (False, True)):
        folder = tmp_path / str(is_cached)
        folder.mkdir()
        positions[is_cached].write(str(folder))
        told = (
            f"belongs to a run with USE_CACHED_TASKS={is_cached}, which reads the data in another"
        )
        with pytest.raises(UserError, match=told):
            positions[other].read(str(folder))

"""Saves that go on while the run does."""

import threading

import pytest
import tensorflow as tf

from switch_tf.checkpoints import position, tensor_files
from switch_tf.checkpoints.model_dir import ModelDir
from switch_tf.data.waiting import Input
from switch_tf.errors import HostLost, InputHangs
from switch_tf.hosts import agreement
from tests.checkpoints.runs import line_of, save_steps, small_run


@pytest.fixture
def held(monkeypatch):
    """An event that the writing of tensors waits for; a list of the threads that write."""
    goes_on, write, threads = threading.Event(), tensor_files.write_part, []

    def wait(*arguments):
        threads.append(threading.current_thread())
        assert goes_on.wait(60)
        write(*arguments)

    monkeypatch.setattr(tensor_files, "write_part", wait)
    yield goes_on, threads
    goes_on.set()
    for thread in threads:
        thread.join()


def until_written(checkpoints):
    for _ in range(6000):
        checkpoints.finish(waits=False)
        if not checkpoints._pending:
            return
        threading.Event().wait(0.01)
    raise AssertionError("the save does not end")


def test_a_checkpoint_has_the_values_and_the_position_of_its_step(tmp_path, held):
    goes_on, _ = held
    run = small_run(tmp_path, 1.0)
    next(run.iterator)
    run.checkpoints.begin(1)
    # What the steps do that follow.
    run.weights[0].assign_add(tf.ones([4, 3]))
    for slot in run.optimizer.variables:
        slot.assign_add(tf.ones_like(slot))
    next(run.iterator)
    run.checkpoints.finish(waits=False)
    assert ModelDir(str(tmp_path)).steps() == []
    goes_on.set()
    until_written(run.checkpoints)
    assert ModelDir(str(tmp_path)).steps() == [1]
    found = small_run(tmp_path)
    assert found.checkpoints.restore_latest() == 1
    assert float(found.weights[0][0, 0]) == 1.0
    assert int(next(found.iterator)) == 1
    assert all(float(tf.reduce_sum(v)) == 0.0 for v in found.optimizer.variables if v.shape.rank)


def test_the_next_save_waits_for_the_one_before(tmp_path, held):
    goes_on, threads = held
    run = small_run(tmp_path, 1.0)
    run.checkpoints.begin(1)
    goes_on.set()
    run.checkpoints.begin(2)
    # The second may be whole by now, too.
    assert len(threads) == 2 and ModelDir(str(tmp_path)).steps()[0] == 1
    # Nothing of a step that is there already, or being written.
    run.checkpoints.save(2)
    run.checkpoints.begin(1)
    assert len(threads) == 2 and ModelDir(str(tmp_path)).steps() == [1, 2]


@pytest.mark.parametrize("how", ["finish", "after a step", "begin", "go back"])
def test_a_writing_that_fails_is_told_by_what_follows_and_older_ones_stay(
    tmp_path, monkeypatch, how
):
    save_steps(tmp_path, [1])
    run = small_run(tmp_path)

    def fail(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tensor_files, "write_part", fail)
    run.checkpoints.begin(2)
    then = {
        "finish": run.checkpoints.finish,
        "after a step": lambda: until_written(run.checkpoints),
        "begin": lambda: run.checkpoints.begin(3),
        "go back": lambda: run.checkpoints.go_back(1),
    }[how]
    line = line_of(then)
    assert line.startswith(f"cannot write to MODEL_DIR '{tmp_path}': ")
    assert "No space left on device" in line
    assert ModelDir(str(tmp_path)).steps() == [1]
    # It is told once.
    run.checkpoints.finish()


def test_a_checkpoint_is_whole_as_soon_as_it_is_written_whatever_the_run_does(tmp_path):
    """Such as a long evaluation, in which the process may be killed."""
    run = small_run(tmp_path, 1.0, keep=1)
    run.checkpoints.save(1)
    run.checkpoints.begin(2)
    run.checkpoints._pending._thread.join()
    assert ModelDir(str(tmp_path)).steps() == [1, 2]
    run.checkpoints.finish()
    assert ModelDir(str(tmp_path)).steps() == [2]


def test_a_position_that_cannot_be_read_ends_the_save(tmp_path, monkeypatch):
    run, never = small_run(tmp_path), threading.Event()
    monkeypatch.setattr(run.checkpoints._position, "_write", lambda *_: never.wait())
    monkeypatch.setattr(position, "Input", lambda: Input(timeout=0.2))
    with pytest.raises(InputHangs, match="^the position in the data has not come within 0.2 s"):
        run.checkpoints.begin(1)
    never.set()
    assert ModelDir(str(tmp_path)).steps() == []


def test_a_lost_host_is_no_full_disk(tmp_path, monkeypatch):
    run = small_run(tmp_path)

    def fail(*_):
        raise tf.errors.UnavailableError(None, None, "Socket closed; ipv4:127.0.0.1:2222")

    monkeypatch.setenv("DTENSOR_JOBS", "a:1111,b:2222")
    monkeypatch.setattr(agreement, "from_chief", fail)
    with pytest.raises(HostLost, match=r"^host 1 \(b:2222\) has ended or does not answer"):
        run.checkpoints.begin(1)


def test_several_hosts_look_seldom_whether_all_have_written(tmp_path, monkeypatch):
    run, asked = small_run(tmp_path), []
    run.checkpoints.begin(1)
    monkeypatch.setattr(agreement, "is_alone", lambda: False)
    monkeypatch.setattr(agreement, "barrier", lambda name: None)
    monkeypatch.setattr(agreement, "from_chief", lambda name, text: text)
    # Another host has not written its part before the second look.
    monkeypatch.setattr(
        agreement, "any_of", lambda name, flag: asked.append(flag) or flag or len(asked) < 2
    )
    run.checkpoints._pending._thread.join()
    steps = 0
    while run.checkpoints._pending:
        run.checkpoints.finish(waits=False)
        steps += 1
    assert (len(asked), steps) == (2, 20)

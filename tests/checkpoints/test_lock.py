"""One process writes to a MODEL_DIR; what a dead one left is told and taken over."""

import dataclasses
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import uuid

import pytest

from switch_tf import storage
from switch_tf.checkpoints import lock
from switch_tf.checkpoints.lock import Holder, check_free, in_use
from switch_tf.errors import UserError

HOLD = """
import sys, time
from switch_tf.checkpoints.lock import in_use
with in_use(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def write(folder, **others):
    """Writes the lock of another process, and returns its holder."""
    folder.mkdir(exist_ok=True)
    holder = dataclasses.replace(Holder.this(), **others)
    (folder / "in_use").write_text(json.dumps(dataclasses.asdict(holder)))
    return holder


def test_a_second_process_is_refused_in_a_line_with_host_and_process(tmp_path, monkeypatch):
    path = str(tmp_path / "run")
    host = re.escape(socket.gethostname())
    with in_use(path):
        told = (
            f"^MODEL_DIR='{path}' is in use by process {os.getpid()} on host {host}, since "
            r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S+: wait until it ends, or give another MODEL_DIR$"
        )
        with pytest.raises(UserError, match=told), in_use(path):
            pytest.fail("it was accepted")
        with pytest.raises(UserError, match=told):
            check_free(path)
        monkeypatch.setenv("DTENSOR_CLIENT_ID", "1")
        with in_use(path):
            monkeypatch.undo()
        (tmp_path / "run/metrics.jsonl").touch()
    check_free(path)
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["metrics.jsonl"]
    with in_use(str(tmp_path / "empty")):
        pass
    assert not (tmp_path / "empty").exists()


def test_the_lock_of_a_process_that_was_killed_is_told_and_taken_over(tmp_path, capsys):
    path = str(tmp_path / "run")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True, env=os.environ
    ) as child:
        try:
            assert child.stdout.readline() == "held\n"
            with pytest.raises(UserError, match=f"is in use by process {child.pid} on host "):
                check_free(path)
        finally:
            child.send_signal(signal.SIGKILL)
    check_free(path)
    assert capsys.readouterr().out == ""
    with in_use(path):
        told = capsys.readouterr().out
        assert told.startswith(f"MODEL_DIR='{path}' was left in use by process {child.pid} on ")
        assert told.endswith(", which has ended: this run takes it over\n")
    with in_use(path):
        assert capsys.readouterr().out == ""


def test_of_another_host_it_is_not_known_whether_its_process_lives(tmp_path):
    folder = tmp_path / "run"
    write(folder, host="node7", process=12, boot="another")
    told = (
        f"^MODEL_DIR='{folder}' is in use by process 12 on host node7, since .*, which may have "
        f"ended: if it has, remove {folder}/in_use; if not, wait until it does, or give another"
    )
    for context in (lambda: check_free(str(folder)), lambda: in_use(str(folder)).__enter__()):
        with pytest.raises(UserError, match=told):
            context()
    (folder / "in_use").unlink()
    with in_use(str(folder)):
        pass


def test_a_machine_that_was_started_again_and_another_container_have_no_process(tmp_path, capsys):
    for number, others in enumerate(
        [{"boot": "before"}, {"host": "container", "numbering": "pid:[1]", "process": 1}]
    ):
        folder = tmp_path / str(number)
        write(folder, **others)
        with in_use(str(folder)):
            assert "which has ended: this run takes it over" in capsys.readouterr().out


def test_a_file_system_without_locks_asks_for_the_process_by_its_number(tmp_path, monkeypatch):
    def no_locks(file, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    folder = tmp_path / "run"
    write(folder)
    with pytest.raises(UserError, match="wait until it ends"):
        check_free(str(folder))
    # A later process of the same number, and one that is not there.
    for others in ({"started": "1"}, {"process": 2**30}):
        write(folder, **others)
        check_free(str(folder))
    # The number may be that of a process in another container.
    write(folder, numbering="pid:[1]")
    with pytest.raises(UserError, match="which may have ended: if it has, remove"):
        check_free(str(folder))


@pytest.mark.parametrize("left", ["", "123", "{", '{"host": "a"}'])
def test_a_file_that_names_no_process_is_taken(tmp_path, left, capsys):
    (tmp_path / "in_use").write_text(left)
    with in_use(str(tmp_path)):
        assert lock.Holder.said_by((tmp_path / "in_use").read_text()).process == os.getpid()
    assert capsys.readouterr().out == ""


def test_a_lock_that_was_removed_by_hand_for_another_run_is_left_to_that(tmp_path):
    with in_use(str(tmp_path)):
        (tmp_path / "in_use").unlink()
        write(tmp_path, process=12)
    assert (tmp_path / "in_use").exists()


def test_a_remote_folder_is_taken_by_one_process(capsys):
    path = f"ram://{uuid.uuid4().hex}"
    with in_use(path):
        with pytest.raises(UserError, match=f"is in use by process {os.getpid()} on host "):
            in_use(path).__enter__()
        holder = Holder.said_by(storage.read_text(f"{path}/in_use"))
    assert not storage.exists(f"{path}/in_use")
    for others, told in (
        ({"process": 2**30}, "which has ended: this run takes it over"),
        ({"boot": "other", "host": "node7"}, "on host node7, since .*, which may have ended: if "),
    ):
        left = dataclasses.replace(holder, **others)
        storage.write_atomically(f"{path}/in_use", json.dumps(dataclasses.asdict(left)))
        if "host" in others:
            with pytest.raises(UserError, match=told):
                in_use(path).__enter__()
        else:
            with in_use(path):
                assert told in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="^MODEL_DIR='.*/file/run' cannot be written to: .*Not a d"):
        in_use(str(tmp_path / "file/run")).__enter__()


ANEW = """
import sys
from switch_tf import process
from switch_tf.checkpoints.lock import check_free, in_use
from switch_tf.errors import Restart
process.ends_at_once()
with open(sys.argv[1] + ".starts", "a+") as file:
    file.write("x")
    file.seek(0)
    starts = len(file.read())
if process.has_restarted():
    print("anew", flush=True)
    sys.stdin.readline()
    check_free(sys.argv[1])
try:
    with in_use(sys.argv[1]):
        if starts < 3:
            raise Restart
        print("held", flush=True)
        sys.stdin.readline()
except Restart:
    process.restart()
"""


def test_a_process_that_starts_anew_keeps_its_lock_meanwhile(tmp_path):
    path = str(tmp_path / "run")
    with subprocess.Popen(
        [sys.executable, "-c", ANEW, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        for said in ("anew", "anew", "held"):
            assert process.stdout.readline().strip() == said
            with pytest.raises(UserError, match=f"is in use by process {process.pid} on host"):
                check_free(path)
            process.stdin.write("\n")
            process.stdin.flush()
        assert process.wait() == 0
    check_free(path)
    assert not os.path.exists(path)

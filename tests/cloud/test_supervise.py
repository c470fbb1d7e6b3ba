"""Supervision on the stub of gcloud, with a run that saves, resumes and locks as the real one."""

import json
import re
import threading
import time

import pytest

from switch_tf.cloud import __main__ as cloud
from switch_tf.cloud import gcloud, kept, tpu
from switch_tf.cloud import supervise as supervision
from switch_tf.cloud.supervise import Supervisor
from tests.cloud.conftest import COMMAND, PLACE

FAST = ("--type=v4-16", "--tier=spot", "--poll=0.02")
STOCKOUT = 'There is no more capacity in the zone "us-central2-b"; you can try in another zone'
QUOTA = "Quota limit 'TPUV4sPreemptiblePodPerProjectPerZoneForTPUAPI' has been exceeded. Limit: 0"


@pytest.fixture(autouse=True)
def no_slice_is_new(monkeypatch):
    monkeypatch.setattr(supervision, "_SECONDS_NEW", 0)


def supervise(zone, *flags, command=COMMAND):
    return zone.call("supervise", *FAST, *flags, *command)


def resumed(zone):
    return [int(line) for line in zone.lines("resumed.txt")]


def checkpoints(zone):
    return sorted(path.name for path in zone.model_dir.iterdir())


WHOLE = sorted(f"checkpoint_{step}" for step in (2, 4, 6, 8, 10))


def test_a_run_is_brought_to_its_end_and_the_slice_deleted(zone):
    status, told, error = supervise(zone)
    assert (status, error) == (0, "")
    assert checkpoints(zone) == WHOLE and resumed(zone) == [0]
    assert zone.created() == 1 and not zone.exists()
    order = ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE", "setting up", "launching", "done"]
    places = [told.index(word) for word in order]
    assert places == sorted(places)


def test_a_slice_taken_back_in_the_middle_of_a_save_is_asked_for_again(zone):
    """The run on new machines goes on behind the last whole checkpoint, whatever the old left."""
    zone.set(preempted=str(zone.folder / "preempted"))
    zone.write("scenario.json", [[[0, 6, "preempt"]]])
    status, told, _ = supervise(zone)
    assert status == 0
    assert "tpu-a is PREEMPTED" in told
    assert resumed(zone) == [0, 4] and zone.created() == 2
    assert "checkpoint_10" in checkpoints(zone) and not zone.exists()
    # The lock of the machine that is gone.
    assert zone.calls("storage", "rm") == [["storage", "rm", "gs://bucket/model/in_use"]]


def test_the_code_stays_that_of_the_beginning(zone, monkeypatch):
    """Whatever is set up by hand meanwhile, for which the same file is used."""
    delete = tpu.Slice.delete

    def and_another_is_packed(self):
        delete(self)
        (self.folder / "source.tar.gz").write_text("another")

    monkeypatch.setattr(tpu.Slice, "delete", and_another_is_packed)
    zone.set(preempted=str(zone.folder / "preempted"))
    zone.write("scenario.json", [[[0, 6, "preempt"]]])
    assert supervise(zone)[0] == 0 and resumed(zone) == [0, 4]


@pytest.mark.parametrize("taken", ["SUSPENDED", "FAILED:the node was lost"])
def test_so_is_one_whose_request_ends(zone, taken):
    zone.set(preempted=str(zone.folder / "preempted"), taken=taken)
    zone.write("scenario.json", [[[0, 6, "preempt"]]])
    assert supervise(zone)[0] == 0
    assert resumed(zone) == [0, 4] and zone.created() == 2


def test_the_lock_of_an_unknown_machine_stays(zone):
    """It may be a run elsewhere; the run itself refuses, and says what to do."""
    zone.model_dir.mkdir(parents=True)
    lock = {"host": "elsewhere", "process": 1}
    (zone.model_dir / "in_use").write_text(json.dumps(lock))
    status, told, _ = supervise(zone)
    assert status == 2 and json.loads((zone.model_dir / "in_use").read_text()) == lock
    assert not zone.calls("storage", "rm") and not zone.exists()


def test_what_cannot_be_had_yet_is_asked_for_again(zone):
    zone.set(create=[STOCKOUT], grants=[f"FAILED:{STOCKOUT}", "FAILED:valid until has passed"])
    status, told, _ = supervise(zone)
    assert status == 0 and zone.created() == 4
    assert f"tpu-a is FAILED: {STOCKOUT}" in told


@pytest.mark.parametrize("faults", [{"create": [QUOTA]}, {"grants": [f"FAILED:{QUOTA}"]}])
def test_a_quota_ends_it_with_one_line(zone, faults):
    zone.set(**faults)
    status, _, error = supervise(zone)
    assert status == 2 and error.count("\n") == 1
    assert QUOTA in error
    assert error.endswith(
        "; ask for more, or delete what holds it: scripts/tpu/list.sh names it, also what has "
        "failed or was suspended\n"
    )
    assert zone.created() == 1


DENIED = "PERMISSION_DENIED: Permission 'tpu.nodes.create' denied"


@pytest.mark.parametrize(
    "faults, what",
    [
        ({"create": [DENIED]}, "creating tpu-a: (gcloud.stub)"),
        ({"grants": [f"FAILED:{DENIED}"]}, "tpu-a cannot be had:"),
    ],
)
def test_a_permission_ends_it_with_one_line(zone, faults, what):
    zone.set(**faults)
    told = f"scripts/tpu/supervise.sh: error: {what} {DENIED}\n"
    assert supervise(zone)[::2] == (2, told)


def test_a_users_mistake_is_not_tried_again(zone):
    zone.write("scenario.json", [[[0, 5, 75], [1, 4, 2]]])
    status, told, _ = supervise(zone)
    assert status == 2 and resumed(zone) == [0]
    assert "(worker: status) 0: 75, 1: 2" in told
    assert not zone.exists()


@pytest.mark.parametrize("status", [75, 137])
def test_another_status_is_tried_again(zone, status):
    zone.write("scenario.json", [[[0, 5, status], [1, 5, 75]]])
    ended, told, _ = supervise(zone)
    assert ended == 0 and resumed(zone) == [0, 4] and zone.created() == 1
    assert "failure 1 of 5 in a row; the newest checkpoint is of step 4" in told


def test_failures_without_a_checkpoint_between_end_it(zone):
    crash = [[0, 5, 1], [1, 5, 75]]
    zone.write("scenario.json", [crash] * 9)
    status, told, _ = supervise(zone, "--tries=3")
    assert status == 1
    # The first one is behind a checkpoint.
    assert resumed(zone) == [0, 4, 4]


def test_failures_with_a_checkpoint_between_do_not(zone):
    zone.write("scenario.json", [[[0, step, 75], [1, step, 75]] for step in (3, 5, 7)])
    assert supervise(zone, "--tries=2")[0] == 0
    assert resumed(zone) == [0, 2, 4, 6]


def test_a_worker_that_refuses_for_a_while_is_waited_for(zone):
    zone.set(refused={"1": 3})
    status, told, _ = supervise(zone)
    assert status == 0 and zone.created() == 1 and resumed(zone) == [0]
    assert "status 255" in told


def test_a_worker_that_goes_on_refusing_is_replaced_with_the_slice(zone):
    zone.set(refused={"1": 5})
    status, told, _ = supervise(zone, "--tries=2")
    assert status == 0 and zone.created() == 2


def test_a_set_up_that_fails_ends_it_at_last(zone):
    (zone.folder / "setup_fails").touch()
    status, told, _ = supervise(zone, "--tries=2")
    assert status == 1 and zone.created() == 1 and not resumed(zone)


def test_a_set_up_that_fails_on_a_new_slice_is_no_failure(zone, monkeypatch):
    monkeypatch.setattr(supervision, "_SECONDS_NEW", 600)
    (zone.folder / "setup_fails").touch()
    set_up, calls = tpu.Slice.set_up, []

    def repaired(self, archive):
        calls.append(archive)
        if len(calls) == 4:
            (zone.folder / "setup_fails").unlink()
        set_up(self, archive)

    monkeypatch.setattr(tpu.Slice, "set_up", repaired)
    status, told, _ = supervise(zone, "--tries=1")
    assert status == 0 and zone.created() == 1 and resumed(zone) == [0]
    assert told.count("trying again, as the slice is new") == 3 and "failure 1" not in told


def test_a_run_that_hangs_is_ended_and_started_again(zone):
    zone.write("scenario.json", [[[0, 5, "hang"], [1, 5, "hang"]]])
    status, told, _ = supervise(zone, "--silence=2")
    assert status == 0 and resumed(zone) == [0, 4] and zone.created() == 1
    assert re.search(r"the log has told of no progress for \d+ s: ending the run", told)


def test_workers_that_do_not_miss_another_are_ended(zone):
    zone.write("scenario.json", [[[0, 5, "hang"], [1, 5, 75]]])
    status, told, _ = supervise(zone, "--silence=2")
    assert status == 0 and resumed(zone) == [0, 4]


@pytest.mark.parametrize("how", ["--wait=20", "--kill"])
def test_a_run_that_is_stopped_by_hand_is_not_started_again(zone, how):
    zone.write("scenario.json", [[[0, 5, "hang"], [1, 5, "hang"]]])

    def stop():
        logs = [zone.folder / "workers" / "tpu-a" / str(i) / tpu.LOG for i in range(2)]
        while not all(log.exists() and "step 5" in log.read_text() for log in logs):
            time.sleep(0.02)
        assert cloud.main(["stop", "tpu-a", *PLACE, how]) == 0

    thread = threading.Thread(target=stop)
    thread.start()
    status, told, _ = supervise(zone)
    thread.join()
    assert status == 143 and resumed(zone) == [0]
    assert "it was stopped by hand" in told and not zone.exists()


def test_a_supervisor_that_is_started_again_finds_the_run(zone):
    zone.make()
    zone.write("scenario.json", [[[0, 5, "hang"], [1, 5, "hang"]]])
    assert zone.call("launch", *COMMAND)[0] == 0
    status, told, _ = supervise(zone, "--silence=2", "--adopt")
    assert "found a run on 2 of 2 workers" in told
    assert status == 0 and resumed(zone) == [0, 4] and zone.created() == 1


def test_a_slice_can_be_kept(zone):
    status, told, _ = supervise(zone, "--keep")
    assert status == 0 and zone.exists()
    assert told.endswith(f"{LEFT}\n") and "the run goes on" not in told


def test_a_slice_of_another_type_is_left_alone(zone):
    zone.make()
    status, _, error = zone.call("supervise", "--type=v4-8", "--poll=0.02", "--adopt", *COMMAND)
    assert (status, error) == (
        2,
        "scripts/tpu/supervise.sh: error: tpu-a is a v4-16, but --type=v4-8: give its type, or "
        "another NAME\n",
    )
    assert zone.exists()


@pytest.mark.parametrize("waits", [True, False])
def test_what_another_made_is_left_alone(zone, waits):
    if waits:
        zone.call("create", "--type=v4-16")
    else:
        zone.make()
    assert supervise(zone)[::2] == (
        2,
        "scripts/tpu/supervise.sh: error: tpu-a was not made by a supervisor in this folder, and a "
        "supervisor deletes its slice at the end: give --adopt if it is to take it over, or "
        "another NAME\n",
    )
    assert zone.exists() and not resumed(zone)
    assert supervise(zone, "--adopt")[0] == 0
    assert zone.created() == 1 and not zone.exists()


def test_what_was_made_for_another_command_is_left_alone(zone):
    assert supervise(zone, "--keep")[0] == 0
    other = (*COMMAND, "--gin.TRAIN_STEPS=20")
    status, _, error = supervise(zone, command=other)
    assert (status, zone.exists(), len(resumed(zone))) == (2, True, 1)
    assert "error: tpu-a was made for another command, and a supervisor deletes its" in error
    assert supervise(zone)[0] == 0 and not zone.exists()
    # Of a slice that is gone it means nothing.
    assert zone.call("create", "--type=v4-16")[0] == 0
    assert "tpu-a was not made by a supervisor" in supervise(zone)[2]


def test_a_supervisor_that_was_ended_finds_what_it_asked_for(zone, monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tpu.Slice, "queue_state", lambda self: ("MISSING", ""))
        patch.setattr(Supervisor, "_pause", interrupted)
        zone.set(create=["gcloud crashed (TransportError)"])
        assert supervise(zone)[0] == 130
    assert supervise(zone)[0] == 0


def test_a_network_that_is_down_for_a_while_ends_nothing(zone):
    zone.set(node=[None, "gcloud crashed (TransportError)", "Read timed out"])
    status, told, _ = supervise(zone)
    assert status == 0 and resumed(zone) == [0] and zone.created() == 1
    assert "looking at tpu-a: (gcloud.stub) gcloud crashed (TransportError)" in told


def test_a_supervisor_that_reaches_no_worker_leaves_the_run_alone(zone):
    """It is rather its own ssh that fails."""
    zone.make()
    zone.write("scenario.json", [[[0, 9, "hang"], [1, 9, "hang"]]])
    assert zone.call("launch", *COMMAND)[0] == 0
    # The first look finds the run.
    zone.set(answered={"0": 1, "1": 1}, refused={"0": 6, "1": 6})
    status, told, _ = supervise(zone, "--tries=2", "--silence=2", "--adopt")
    assert "no worker answers by ssh; waiting" in told
    assert status == 0 and resumed(zone) == [0, 8] and zone.created() == 1


@pytest.mark.parametrize("runs", [True, False])
def test_one_that_is_started_again_and_reaches_no_worker_waits(zone, runs):
    """Such as on a laptop that was started anew, without its key in ssh's agent."""
    zone.make()
    zone.write("scenario.json", [[[0, 9, "hang"], [1, 9, "hang"]]])
    if runs:
        assert zone.call("launch", *COMMAND)[0] == 0
    zone.set(refused={"0": 6, "1": 6})
    status, told, _ = supervise(zone, "--tries=2", "--silence=2", "--adopt")
    assert "waiting, as a run may go on there: is the key in ssh's agent" in told
    assert "failure" not in told.partition("the run has ended")[0]
    assert status == 0 and resumed(zone) == [0, 8] and zone.created() == 1


def test_a_run_that_goes_on_is_left_alone_though_a_worker_does_not_answer(zone):
    zone.set(answered={"1": 6}, refused={"1": 5}, refused_when="worker.sh state")
    zone.write("scenario.json", [[[0, 9, "slow"], [1, 9, "slow"]]])
    status, told, _ = supervise(zone, "--tries=2")
    assert status == 0 and resumed(zone) == [0] and zone.created() == 1
    assert "no answer by ssh from worker 1" in told and "the run goes on" in told


def test_before_a_slice_is_given_up_the_run_saves_where_it_can(zone):
    """The chief does not answer, but the others do, and all save when one is told to."""
    zone.set(answered={"0": 6}, refused={"0": 2}, refused_when="worker.sh state")
    zone.write("scenario.json", [[[0, 5, "hang"], [1, 5, "hang"]]])
    status, told, _ = supervise(zone, "--tries=2")
    assert status == 0 and zone.created() == 2
    assert "it was stopped by hand" not in told
    ended = [line for line in zone.lines("ended.txt") if line.endswith(" 143")]
    assert sorted(ended) == ["0 143", "1 143"]


LEFT = (
    "tpu-a or its request is left, and costs money from ACTIVE on, until: "
    "scripts/tpu/delete.sh tpu-a --project=my-project --zone=us-central2-b"
)
LOGGED_OUT = "Reauthentication failed. cannot prompt during non-interactive execution."


def test_an_account_that_is_logged_out_is_waited_for(zone):
    zone.set(node=[None, LOGGED_OUT, LOGGED_OUT])
    status, told, _ = supervise(zone)
    assert status == 0 and resumed(zone) == [0] and zone.created() == 1
    assert told.count("waiting until somebody runs, here: gcloud auth login") == 2


def test_at_the_beginning_it_is_one_line(zone, monkeypatch):
    def refuse(self):
        raise gcloud.Failure("looking at tpu-a", f"ERROR: {LOGGED_OUT}")

    monkeypatch.setattr(tpu.Slice, "queue_state", refuse)
    status, told, error = supervise(zone)
    assert (status, LEFT in told, error.count("\n")) == (2, False, 1)


@pytest.mark.parametrize("what", [{"state": 1}, {}, [], "no JSON"])
def test_what_gcloud_tells_otherwise_than_known_ends_nothing(zone, monkeypatch, what):
    ask, asked = gcloud.Shell.ask, []

    def strange(self, about, words, *rest):
        told = ask(self, about, words, *rest)
        if "--format=json" in words:
            asked.append(words)
        is_one = "--format=json" in words and len(asked) in (2, 5)
        return (what if isinstance(what, str) else json.dumps(what)) if is_one else told

    monkeypatch.setattr(gcloud.Shell, "ask", strange)
    status, told, _ = supervise(zone)
    assert status == 0 and zone.created() == 1 and resumed(zone) == [0]
    assert "gcloud did not" in told


def test_a_disk_that_is_full_for_a_while_ends_nothing(zone, monkeypatch):
    remember, calls = kept.Kept.remember, []

    def full(self, host):
        calls.append(host)
        if len(calls) in (1, 3):
            raise OSError(28, "No space left on device", "chiefs.txt")
        remember(self, host)

    monkeypatch.setattr(kept.Kept, "remember", full)
    status, told, _ = supervise(zone)
    assert status == 0 and zone.created() == 1 and resumed(zone) == [0]
    assert told.count("this machine: [Errno 28] No space left on device") == 2


@pytest.mark.parametrize("when, runs", [("queue_state", False), ("workers", True)])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("a fault of the scripts")])
def test_whatever_ends_it_what_is_left_is_named(zone, monkeypatch, when, runs, error):
    zone.write("scenario.json", [[[0, 9, "hang"], [1, 9, "hang"]]])
    real = getattr(tpu.Slice, when)

    def ended(self):
        if zone.created() and (resumed(zone) or not runs):
            raise error
        return real(self)

    monkeypatch.setattr(tpu.Slice, when, ended)
    if error is KeyboardInterrupt:
        status, told, told_last = supervise(zone)
        assert (status, told_last) == (130, "scripts/tpu/supervise.sh: interrupted\n")
    else:
        with pytest.raises(RuntimeError):
            supervise(zone)
        told = zone.capsys.readouterr().out
    assert LEFT in told.splitlines()[-1]
    assert ("the run goes on: the same command goes on watching it" in told) == runs


def test_where_nothing_is_left_nothing_is_named(zone):
    zone.set(create=[QUOTA])
    assert "is left" not in supervise(zone)[1]
    assert "is left" not in supervise(zone)[1]

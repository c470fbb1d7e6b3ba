"""Keeps a run going on a slice that may be taken back: asks, launches, watches, and does so again.

A supervisor that is started again looks at what there is, and goes on from there. The run resumes
by itself, from its MODEL_DIR (docs/training.md).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from switch_tf.cloud.gcloud import SSH_REFUSED, Cause, Failure
from switch_tf.cloud.kept import digest
from switch_tf.cloud.model_dir import ModelDir
from switch_tf.cloud.tpu import Request, Slice, Worker
from switch_tf.errors import HostLost, UserError

# States in which a queued resource, or its slice, is on its way.
_ON_THE_WAY = (
    *("CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "SUSPENDING", "DELETING"),
    *("RESTARTING", "REIMAGING", "REPAIRING", "STARTING", "STOPPING", "HIDING", "UNHIDING"),
)
# What another try cannot mend: a user's mistake, and a shell's "cannot be run" and "not found".
_NOT_AGAIN = (UserError.status, 126, 127)
_STOPPED = 143
_TEMPORARY = (HostLost.status, 130, 143)
# Why another request would fail, too.
_FATAL = (Cause.QUOTA, Cause.REFUSED)
# What waits for a slice need not be looked at as often as a run, nor be asked for again at once.
_LONGEST_PAUSE = 32
# For a run on a slice that is given up, which costs money meanwhile.
_SECONDS_TO_SAVE = 600
# How long a slice is new: its machines may still update themselves, or know no key for ssh.
_SECONDS_NEW = 600


@dataclasses.dataclass
class Supervisor:
    """Watches over one run.

    Attributes:
      slice: where it runs.
      request: what is asked for if there is no slice.
      archive: the project's code.
      command: what each worker runs.
      model_dir: where it writes to; None for what does not train.
      poll: seconds between two looks.
      silence: seconds without progress in the chief's log after which the run is taken to hang: no
        new line, other than of a stage that only tells how long it has taken. Longer than a
        compilation, and the writing and reading of a checkpoint, take; shorter ends a hang, which
        costs money, earlier.
      tries: how many failures in a row end the supervision, if no checkpoint came between them.
        A slice that is taken back, or cannot be had yet, is none.
      keeps: whether the slice stays, and costs money, when the supervision ends.
      adopts: whether to take over what is there under the slice's name though it was not asked for
        to run this command; otherwise that is left alone.
    """

    slice: Slice
    request: Request
    archive: Path
    command: Sequence[str]
    model_dir: ModelDir | None
    poll: float = 60.0
    silence: float = 3600.0
    tries: int = 5
    keeps: bool = False
    adopts: bool = False

    def __post_init__(self):
        self._state = ""
        # Whether the run was started, or found going, on the slice that is there now.
        self._is_launched = False
        # Whether the slice that is there now is new, so that no run of before can be on it.
        self._is_new = False
        self._has_looked = False
        # Whether what is there was asked for to run this command.
        self._is_own = False
        # Kept here, as somebody may set up another commit by hand meanwhile.
        self._code = self.archive.read_bytes()
        self._failures = 0
        self._unanswered = 0
        self._pauses = 1
        self._step: int | None = None
        self._partly_since: float | None = None
        self._ready_since: float | None = None

    def run(self) -> int:
        """Supervises until the run ends; returns its exit status.

        Raises:
          UserError: the run cannot be supervised any more: gcloud or a quota refuses.
        """
        try:
            if self.model_dir:
                self._step = self.model_dir.newest()
            while True:
                status = self._try_look()
                if status is not None:
                    return self._end(status)
                time.sleep(self.poll)
        finally:
            # Whatever ended it.
            if self._is_own:
                self._tell_left()

    def _try_look(self) -> int | None:
        try:
            return self._look()
        except Failure as failure:
            # What passes is waited for: a network that is down, or, once something was looked at,
            # that somebody logs in again.
            passes = (Cause.OTHER, *[Cause.LOGGED_OUT] * self._has_looked)
            if failure.cause not in passes:
                raise
            self._say(str(failure))
            if failure.cause is Cause.LOGGED_OUT:
                self._say("waiting until somebody runs, here: gcloud auth login")
        except OSError as error:
            # Such as a disk that is full.
            self._say(f"this machine: {error}")
        return None

    def _set_up(self) -> bool:
        """Sets up; returns whether it did, False on a slice that is so new that it may do yet.

        Raises:
          Failure: it failed, on a slice that is not new.
        """
        self.archive.write_bytes(self._code)
        try:
            self.slice.set_up(self.archive)
        except Failure as failure:
            if time.monotonic() - self._ready_since >= _SECONDS_NEW:
                raise
            self._say(f"{failure}; trying again, as the slice is new")
            return False
        return True

    def _tell_left(self) -> None:
        """What goes on when the supervision ends, and how to end that."""
        name = self.slice.name
        runs = "the run goes on: the same command goes on watching it; " * self._is_launched
        where = f"--project={self.slice.project} --zone={self.slice.zone}"
        self._say(
            f"{runs}{name} or its request is left, and costs money from ACTIVE on, until: "
            f"scripts/tpu/delete.sh {name} {where}"
        )

    def _look(self) -> int | None:
        """Does what the state asks for; returns the run's status once it has ended for good."""
        state, why = self.slice.queue_state()
        self._has_looked = True
        self._tell_state(f"{self.slice.name} is {state}" + f": {why}" * bool(why))
        if state == "MISSING":
            self._create()
            return None
        if not self._is_own:
            if not self.adopts:
                self.slice.kept.check_claimed(self.command)
            self.slice.kept.claim(self.command)
            self._is_own = True
        if state == "ACTIVE":
            return self._look_at_node()
        elif state in ("FAILED", "SUSPENDED"):
            if state == "FAILED":
                self._heed(Failure(f"{self.slice.name} cannot be had", why), _FATAL)
            self._remove()
            if state == "FAILED":
                self._pause()
        elif state in _ON_THE_WAY:
            self._is_new = True
        else:
            raise UserError(f"{self.slice.name} is in state {state}, which the scripts do not know")
        return None

    def _look_at_node(self) -> int | None:
        node = self.slice.node()
        if node.type not in ("", self.request.type):
            raise UserError(
                f"{self.slice.name} is a {node.type}, but --type={self.request.type}: give its "
                "type, or another NAME"
            )
        if node.state == "READY":
            self._pauses = 1
            if self._ready_since is None:
                self._ready_since = time.monotonic()
            return self._attend(node.number)
        self._tell_state(f"{self.slice.name} is {node.state}")
        if node.state not in _ON_THE_WAY:
            # PREEMPTED, TERMINATED and the like: it does not come back.
            self._remove()
        return None

    def _attend(self, number: int) -> int | None:
        """Launches the run, or looks how it goes, on a slice of `number` machines."""
        workers = self.slice.workers()
        silent = [i for i in range(number) if i not in workers]
        running = [worker for worker in workers.values() if worker.state == "running"]
        if not workers and not self._is_new:
            # More likely a fault of this machine or its network than of all the slice's, on which
            # a run may go on.
            self._say(
                "no worker answers by ssh; waiting, as a run may go on there: is the key in ssh's "
                "agent (ssh-add ~/.ssh/google_compute_engine)?"
            )
            return None
        if not running and not self._is_launched:
            return self._launch(number, workers)
        if not self._is_launched:
            self._say(f"found a run on {len(running)} of {number} workers")
            self._is_launched, self._is_new = True, False
        if 0 in workers:
            self.slice.kept.remember(workers[0].host)
        if silent:
            return self._do_without_answer(silent, workers)
        self._unanswered = 0
        if not running:
            self._partly_since = None
            return self._judge(workers)
        if len(running) < number:
            # The others end by themselves once they miss it: in a step in seconds, but at the start
            # after minutes, for which nobody waits in vain.
            now, since = time.monotonic(), self._partly_since
            is_vain = any(worker.status in _NOT_AGAIN for worker in workers.values())
            if since is not None and (is_vain or now - since > self.silence):
                self._say("some workers have ended, but others go on: ending them")
                self.slice.kill()
            self._partly_since = now if since is None else since
        elif workers[0].silent > self.silence:
            self._say(f"the log has told of no progress for {workers[0].silent} s: ending the run")
            self.slice.kill()
        else:
            self._partly_since = None
        return None

    def _judge(self, workers: Mapping[int, Worker]) -> int | None:
        """What follows from how the run ended on the workers."""
        self._is_launched = False
        statuses = {index: worker.status for index, worker in workers.items()}
        told = ", ".join(f"{i}: {'lost' if s is None else s}" for i, s in sorted(statuses.items()))
        self._say(f"the run has ended, with status (worker: status) {told}")
        if any(worker.is_stopped for worker in workers.values()):
            self._say("it was stopped by hand")
            return _STOPPED
        if set(statuses.values()) == {0}:
            return 0
        # The others miss the one that failed, so the rarest status says most.
        for index, status in statuses.items():
            if status in _NOT_AGAIN:
                self._show_log(index)
                return status
        own = [(i, s) for i, s in statuses.items() if s not in (0, None, *_TEMPORARY)]
        if own:
            self._show_log(own[0][0])
        rest = [status for status in statuses.values() if status]
        return self._failed(own[0][1] if own else max(rest, default=HostLost.status))

    def _failed(self, status: int) -> int | None:
        """Counts a failure; returns `status` once there were too many in a row."""
        self._is_launched = False
        step = self.model_dir.newest() if self.model_dir else None
        if step is not None:
            if self._step is None or step > self._step:
                self._failures = 0
            self._step = step
        self._failures += 1
        kept = "no checkpoint yet" if step is None else f"the newest checkpoint is of step {step}"
        self._say(f"failure {self._failures} of {self.tries} in a row; {kept}")
        return status if self._failures >= self.tries else None

    def _do_without_answer(
        self, silent: Sequence[int], workers: Mapping[int, Worker]
    ) -> int | None:
        if silent:
            names = ", ".join(map(str, silent))
            self._say(f"no answer by ssh from worker {names}")
        chief = workers.get(0)
        if chief and chief.state == "running" and chief.silent <= self.silence:
            self._say("the run goes on")
            self._unanswered = 0
            return None
        self._unanswered += 1
        if self._unanswered < self.tries:
            return None
        # A machine that stays away does so until there is another one.
        self._unanswered = 0
        if any(worker.state == "running" for worker in workers.values()):
            self.slice.save(_SECONDS_TO_SAVE)
        status = self._failed(HostLost.status)
        if status is None:
            self._remove()
        return status

    def _create(self) -> None:
        self._is_new = True
        # First, as a request may come to be though its answer is lost.
        self.slice.kept.claim(self.command)
        self._is_own = True
        try:
            self.slice.create(self.request)
        except Failure as failure:
            if failure.cause is not Cause.OTHER:
                self.slice.kept.disclaim()
                self._is_own = False
            self._heed(failure, (*_FATAL, Cause.MISSING))
            self._say(str(failure))
            self._pause()

    def _heed(self, failure: Failure, fatal: Sequence[Cause]) -> None:
        if failure.cause in fatal:
            if failure.cause is Cause.QUOTA:
                raise UserError(
                    f"{failure}; ask for more, or delete what holds it: scripts/tpu/list.sh names "
                    "it, also what has failed or was suspended"
                ) from failure
            raise failure

    def _launch(self, number: int, workers: Mapping[int, Worker]) -> int | None:
        """Sets up, if this was not done yet, and starts the run."""
        codes = {worker.code for worker in workers.values()}
        try:
            if len(workers) < number or codes != {digest(self._code)}:
                self._say("setting up")
                if not self._set_up():
                    return None
                workers = self.slice.workers()
            silent = [i for i in range(number) if i not in workers]
            if silent:
                return self._do_without_answer(silent, workers)
            self.slice.kept.remember(workers[0].host)
            if self.model_dir:
                self.model_dir.free(self.slice.kept.lost_chiefs(workers[0].host))
            self._say("launching")
            self.slice.start(self.command)
        except Failure as failure:
            self._say(str(failure))
            if failure.exit_status == SSH_REFUSED:
                return self._do_without_answer([], {})
            return self._failed(failure.exit_status)
        except OSError as error:
            self._say(f"this machine: {error}")
            return self._failed(1)
        self._is_launched, self._unanswered, self._is_new = True, 0, False
        return None

    def _remove(self) -> None:
        """Deletes a slice that is lost, so that another can be asked for under its name."""
        self._is_launched, self._ready_since = False, None
        try:
            self.slice.delete()
        except Failure as failure:
            if failure.cause is not Cause.MISSING:
                raise
        self._is_own = False

    def _end(self, status: int) -> int:
        self._say("done" if status == 0 else f"the run ended with status {status}")
        if not self.keeps:
            try:
                self._remove()
            except (Failure, OSError) as error:
                self._say(str(error))
        return status

    def _show_log(self, index: int) -> None:
        words = ["bash", "worker.sh", "log", "20"]
        try:
            self.slice.ssh_shown(f"the log of worker {index}", words, str(index))
        except UserError as error:
            self._say(str(error))

    def _tell_state(self, state: str) -> None:
        if state != self._state:
            self._state = state
            self._say(state)

    def _pause(self) -> None:
        """Waits longer each time, as what cannot be had now can seldom be had in a minute."""
        time.sleep(self.poll * self._pauses)
        self._pauses = min(2 * self._pauses, _LONGEST_PAUSE)

    def _say(self, text: str) -> None:
        print(f"[{time.strftime('%Y-%m-%d %H:%M:%S')}] {text}", flush=True)

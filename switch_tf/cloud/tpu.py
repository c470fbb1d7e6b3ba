"""A slice of Cloud TPU: the commands that make, use and remove it, and what they tell of it."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from switch_tf.cloud import gcloud
from switch_tf.cloud.kept import Kept
from switch_tf.errors import UserError

ROOT = Path(__file__).parent.parent.parent
# Where the scripts keep files of a slice, in the working directory.
RUNS = Path("runs", "tpu")
WORKER = "scripts/tpu/worker.sh"
LOG = "switch_tf_run/log.txt"
# The software of the slice's machines, by the first part of its type
# (https://cloud.google.com/tpu/docs/runtimes). TensorFlow is not part of it: set_up installs it.
RUNTIMES = {
    "v2": "tpu-ubuntu2204-base",
    "v3": "tpu-ubuntu2204-base",
    "v4": "tpu-ubuntu2204-base",
    "v5litepod": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}
# These types count cores, of which a machine has eight; the others count chips.
_COUNT_CORES = ("v2", "v3", "v4", "v5p")
_TIERS = {"on-demand": [], "spot": ["--spot"], "reserved": ["--reserved"]}
TIERS = tuple(_TIERS)
# A machine that is dead is not waited for minutes, ten times, as gcloud would; nor, for ever, one
# that dies meanwhile, or to which the network forgets the connection.
_IMPATIENT = ("-oConnectTimeout=20", "-oServerAliveInterval=15", "-oServerAliveCountMax=4")
_STATE = re.compile(
    r"switch_tf worker=(\d+) host=(\S+) state=(\w+) status=(\d+|-) stopped=(\w+) silent=(\d+) "
    r"code=(\w+)"
)


def api_type(name: str) -> str:
    """The API's name of an accelerator type, as v5litepod-16 for v5e-16."""
    return re.sub(r"v5e(?=-)", "v5litepod", name)


def check_files(command: Sequence[str], type: str, what: str) -> None:
    """Checks that the file of gin/slices in a command is that of the slice.

    A mesh that the command sets itself takes the place of the file's.

    Args:
      command: what the workers are to run.
      type: accelerator type of the slice.
      what: where that is said, for the error.

    Raises:
      UserError: it is another's.
    """
    if any(word.startswith("--gin.MESH_SHAPE=") for word in command):
        return
    for word in command:
        found = re.fullmatch(r"(?:--gin_file=)?((?:.*/)?slices/(v\d\w*)_(\d+)\.gin)", word)
        if found and api_type(f"{found[2]}-{found[3]}") != type:
            raise UserError(
                f"{what}, but the command has {found[1]}, which lays out the devices of a "
                f"{found[2]}-{found[3]}: give that type, the file of the type, or --gin.MESH_SHAPE="
            )


@dataclasses.dataclass(frozen=True)
class Request:
    """What slice is asked for.

    Attributes:
      type: accelerator type, such as v4-32.
      tier: one of `TIERS`. Spot is the cheapest, and may be taken back at any time; on-demand stays
        until it is deleted; reserved is what has been paid for in advance.
      runtime: the machines' software; by default what Google names for the type.
      valid_until: for how long the request waits in the queue, such as 6h; None: without an end.
      service_account: as whom the machines read and write storage; None: the project's default.
    """

    type: str
    tier: str = "on-demand"
    runtime: str | None = None
    valid_until: str | None = None
    service_account: str | None = None

    def check(self) -> None:
        """Raises:
        UserError: no such slice can be asked for.
        """
        generation, dash, count = self.type.partition("-")
        if generation.startswith(("v7", "tpu7")):
            raise UserError(
                f"--type={self.type}: the TPU API does not offer it; see scripts/tpu/templates"
            )
        if generation not in RUNTIMES or not re.fullmatch(r"[1-9][0-9]*", count):
            known = ", ".join(RUNTIMES)
            raise UserError(
                f"--type={self.type}: give GENERATION-NUMBER, such as v4-32, with one of {known}"
            )
        if generation in _COUNT_CORES and int(count) % 8:
            raise UserError(
                f"--type={self.type}: {generation} counts cores, eight on a machine: give a "
                "multiple of 8"
            )
        if self.valid_until and not re.fullmatch(r"([1-9][0-9]*[dhms])+", self.valid_until):
            raise UserError(f"--valid_until={self.valid_until}: give a time such as 6h or 1d12h")

        if self.service_account and "@" not in self.service_account:
            raise UserError(
                f"--service_account={self.service_account}: give its address, such as "
                "NAME@PROJECT.iam.gserviceaccount.com"
            )

    def flags(self) -> list[str]:
        """The flags of gcloud's create."""
        runtime = self.runtime or RUNTIMES[self.type.partition("-")[0]]
        flags = [f"--accelerator-type={self.type}", f"--runtime-version={runtime}"]
        flags += _TIERS[self.tier]
        if self.valid_until:
            flags.append(f"--valid-until-duration={self.valid_until}")
        if self.service_account:
            flags.append(f"--service-account={self.service_account}")
        return flags


@dataclasses.dataclass(frozen=True)
class Node:
    """A slice, as the TPU API tells.

    Attributes:
      state: such as READY; MISSING if it is not there.
      number: of its machines.
      type: accelerator type.
    """

    state: str
    number: int = 0
    type: str = ""


@dataclasses.dataclass(frozen=True)
class Worker:
    """A machine of a slice, as its worker.sh tells.

    Attributes:
      host: its name.
      state: none, running, ended, or lost: the machine was started again, or the run's processes
        were killed, so that no exit status is known.
      status: exit status of the run, if it has ended.
      is_stopped: whether scripts/tpu/stop.sh ended it.
      silent: seconds since the log had a new line, other than of a stage that only tells how long
        it has taken.
      code: identifies the code that is set up, or none.
    """

    host: str
    state: str
    status: int | None
    is_stopped: bool
    silent: int
    code: str


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice, which one queued resource of the same name asks for."""

    name: str
    project: str
    zone: str
    shell: gcloud.Shell

    def check(self) -> None:
        """Raises:
        UserError: name, project or zone cannot be right, or gcloud is missing.
        """
        if not re.fullmatch(r"[a-z]([a-z0-9-]{0,60}[a-z0-9])?", self.name):
            raise UserError(
                f"NAME '{self.name}': give up to 62 lower-case letters, digits and hyphens that "
                "begin with a letter and do not end with a hyphen"
            )
        _check_place(self.project, self.zone)
        self.shell.check()

    @property
    def folder(self) -> Path:
        """Where the scripts keep files of the slice; another zone may have one of its name."""
        return RUNS / self.project / self.zone / self.name

    @property
    def kept(self) -> Kept:
        """What is known of the slice here alone."""
        return Kept(self.name, self.folder)

    def create(self, request: Request) -> None:
        """Puts a request for the slice into the queue.

        Raises:
          gcloud.Failure: it was refused.
        """
        words = self._queue("create", f"--node-id={self.name}", *request.flags())
        self.shell.run(f"creating {self.name}", words)

    def delete(self) -> None:
        """Deletes the slice, whether it is there or still asked for.

        Raises:
          gcloud.Failure: it could not be deleted.
        """
        self.shell.run(f"deleting {self.name}", self._queue("delete", "--force", "--quiet"))
        if not self.shell.is_dry:
            self.kept.disclaim()

    def queue_state(self) -> tuple[str, str]:
        """State of the queued resource, MISSING if there is none, and why it failed, if it did.

        Raises:
          gcloud.Failure: gcloud cannot tell.
        """
        try:
            found = self.shell.ask_json(f"looking at {self.name}", self.describe())
        except gcloud.Failure as failure:
            if failure.cause is gcloud.Cause.MISSING:
                return "MISSING", ""
            raise
        state = found.get("state")
        if not isinstance(state, dict) or "state" not in state:
            raise gcloud.Failure(f"looking at {self.name}", "gcloud did not tell its state")
        error = state.get("failedData", {}).get("error", {})
        return state["state"], error.get("message", "")

    def node(self) -> Node:
        """The slice itself.

        Raises:
          gcloud.Failure: gcloud cannot tell.
        """
        words = ["gcloud", "compute", "tpus", "tpu-vm", "describe", self.name, *self._place()]
        try:
            found = self.shell.ask_json(f"looking at {self.name}", words)
        except gcloud.Failure as failure:
            if failure.cause is gcloud.Cause.MISSING:
                return Node("MISSING")
            raise
        if "state" not in found:
            raise gcloud.Failure(f"looking at {self.name}", "gcloud did not tell its state")
        number = max(1, len(found.get("networkEndpoints", [])))
        return Node(found["state"], number, found.get("acceleratorType", ""))

    def archive(self, commit: str) -> Path:
        """Packs the project at a commit into a file; returns its path.

        Raises:
          UserError: there is no such commit, or no git.
        """
        path = self.folder / "source.tar.gz"
        if not self.shell.is_dry:
            path.parent.mkdir(parents=True, exist_ok=True)
        words = ["git", "archive", "--format=tar.gz", f"--output={path.resolve()}", commit]
        print(gcloud.shown([*words[:3], f"--output={path}", commit]), flush=True)
        if not self.shell.is_dry:
            done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
            if done.returncode:
                raise UserError(f"--commit={commit}: git: {done.stderr.strip().splitlines()[0]}")
            _tell_changes()
        return path

    def set_up(self, archive: Path) -> None:
        """Copies the project to all workers, and installs it and what it needs there.

        Raises:
          gcloud.Failure: a worker could not be set up.
        """
        local = [str(archive), os.path.relpath(ROOT / WORKER)]
        scp = ["gcloud", "compute", "tpus", "tpu-vm", "scp", *local, f"{self.name}:"]
        flags = [f"--scp-flag={flag}" for flag in _IMPATIENT]
        self.shell.stream(f"copying to {self.name}", [*scp, *self._place(), "--worker=all", *flags])
        self.ssh_shown(f"setting up {self.name}", ["bash", "worker.sh", "set_up"])

    def start(self, command: Sequence[str]) -> None:
        """Starts a command on all workers, which goes on when the connection ends.

        Raises:
          gcloud.Failure: a worker did not start it. Then it runs on none.
        """
        try:
            words = ["bash", "worker.sh", "start", *command]
            self.ssh_shown(f"starting the run on {self.name}", words)
        except gcloud.Failure:
            self.kill()
            raise

    def kill(self) -> None:
        """Ends the run on all workers that can be reached, without a save."""
        self._end(gcloud.LOOK, "end")

    def save(self, seconds: int) -> None:
        """Has the run save its step and end, through the workers that can be reached.

        Args:
          seconds: how long it may take.
        """
        self._end(gcloud.LOOK + seconds, "save", str(seconds))

    def _end(self, seconds: float, *words: str) -> None:
        try:
            self.shell.ask(
                f"ending the run on {self.name}", self.ssh(["bash", "worker.sh", *words]), seconds
            )
        except gcloud.Failure as failure:
            print(failure, flush=True)

    def workers(self) -> dict[int, Worker]:
        """What each worker tells, by its number; those that do not answer are missing."""
        try:
            told = self.shell.ask(
                f"looking at the workers of {self.name}", self.look(), gcloud.LOOK
            )
        except gcloud.Failure as failure:
            # A worker that refuses makes gcloud fail, but the others have told.
            told = failure.told
        return {
            int(number): Worker(
                host, state, None if status == "-" else int(status), stop == "yes", int(age), code
            )
            for number, host, state, status, stop, age, code in _STATE.findall(told)
        }

    def ssh_shown(self, what: str, command: Sequence[str], worker: str = "all") -> None:
        """Runs a command on workers, with its output.

        Raises:
          gcloud.Failure: it ended badly on one of them.
        """
        self.shell.stream(what, self.ssh(command, worker))

    def ssh(self, command: Sequence[str], worker: str = "all") -> list[str]:
        """The words that run a command on workers, which their shells split as it is here."""
        words = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", self.name, *self._place()]
        flags = [f"--ssh-flag={flag}" for flag in _IMPATIENT]
        return [*words, f"--worker={worker}", *flags, f"--command={gcloud.join(command)}"]

    def look(self) -> list[str]:
        """The words that ask the workers what they do."""
        return self.ssh(["bash", "worker.sh", "state"])

    def describe(self) -> list[str]:
        """The words that describe the queued resource."""
        return self._queue("describe")

    def _queue(self, verb: str, *flags: str) -> list[str]:
        words = ["gcloud", "compute", "tpus", "queued-resources", verb, self.name]
        return [*words, *self._place(), *flags]

    def _place(self) -> list[str]:
        return [f"--project={self.project}", f"--zone={self.zone}"]


def listing(project: str, zone: str) -> list[list[str]]:
    """The commands that list what is asked for and what is there in a zone."""
    _check_place(project, zone)
    place = [f"--project={project}", f"--zone={zone}"]
    tpus = ["gcloud", "compute", "tpus"]
    return [[*tpus, "queued-resources", "list", *place], [*tpus, "tpu-vm", "list", *place]]


def _check_place(project: str, zone: str) -> None:
    if not project:
        raise UserError("no project: give --project, or set CLOUDSDK_CORE_PROJECT")
    if not zone:
        raise UserError("no zone: give --zone, or set CLOUDSDK_COMPUTE_ZONE")
    if not re.fullmatch(r"([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]", project):
        raise UserError(f"--project={project}: give a project's id, such as my-project-123")
    if not re.fullmatch(r"[a-z]+(-[a-z0-9]+)+-[a-z0-9]+", zone):
        raise UserError(f"--zone={zone}: give a zone, such as us-central2-b")


def _tell_changes() -> None:
    words = ["git", "status", "--porcelain", "--untracked-files=no"]
    changed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    if changed:
        more = f" and {len(changed) - 1} more" * (len(changed) > 1)
        print(f"note: changes that are not committed are not sent ({changed[0][3:]}{more})")

"""The lock of a MODEL_DIR, to which one process writes at a time.

The file `in_use` says which process that is. A local one is also locked, so that the kernel knows
whether a process of this machine still has it. Of another machine only the file is known, as not
every file system tells its locks there; remote file systems have none.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

from switch_tf import process, runtime, storage
from switch_tf.checkpoints.model_dir import ModelDir
from switch_tf.errors import Restart, UserError


@dataclasses.dataclass(frozen=True)
class Holder:
    """The process that has a lock.

    Attributes:
      host: name of its machine, or of its container.
      process: its number there.
      since: when it took the lock.
      boot: identifies the machine since it was started, whatever containers are called.
      numbering: identifies the processes among which its number is its own.
      started: when the process was started, which tells it from a later one of its number.
    """

    host: str
    process: int
    since: str
    boot: str
    numbering: str
    started: str

    @classmethod
    def this(cls) -> "Holder":
        """This process."""
        since = time.strftime("%Y-%m-%d %H:%M:%S %Z")
        boot, numbering = _read("/proc/sys/kernel/random/boot_id"), _numbering()
        pid = os.getpid()
        return cls(socket.gethostname(), pid, since, boot, numbering, _started(pid))

    @classmethod
    def said_by(cls, text: str) -> "Holder | None":
        """What a lock's file says; None if it says nothing, as of a process that just takes it."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return None

    def __str__(self) -> str:
        return f"process {self.process} on host {self.host}, since {self.since}"

    def is_alive(self, is_unlocked: bool) -> bool | None:
        """Whether the process still runs; None if that cannot be known here.

        Args:
          is_unlocked: whether this machine's kernel says that no process of its own has the lock.
        """
        here = Holder.this()
        if self.boot == here.boot and is_unlocked:
            return False
        if self.boot == here.boot and self.numbering == here.numbering:
            return self.started == _started(self.process)
        # A machine that was started again has no process of before.
        return False if self.boot != here.boot and self.host == here.host else None


def _read(path: str) -> str:
    with contextlib.suppress(OSError), open(path, encoding="utf-8") as file:
        return file.read().strip()
    return ""


def _numbering() -> str:
    with contextlib.suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def _started(number: int) -> str:
    """When a process was started, in the kernel's count; empty if there is none of that number."""
    # The fields follow the command's name in parentheses, the third first.
    fields = _read(f"/proc/{number}/stat").rpartition(")")[2].split()
    return fields[19] if fields else ""


def check_free(model_dir: str) -> None:
    """Checks that no process is writing to a local MODEL_DIR.

    Raises:
      UserError: one is, or may be.
    """
    path = ModelDir(model_dir).in_use
    if runtime.is_chief() and not storage.is_remote(path) and os.path.exists(path):
        with contextlib.suppress(FileNotFoundError), open(path, "a+", encoding="utf-8") as file:
            _left_by(file, model_dir)


@contextlib.contextmanager
def in_use(model_dir: str) -> Iterator[None]:
    """Context of the process that writes to a MODEL_DIR; a local one is made if it is not there.

    Raises:
      UserError: another process is writing to it, or may be; or it cannot be written to.
    """
    if not runtime.is_chief():
        yield
        return
    path, record = ModelDir(model_dir).in_use, json.dumps(dataclasses.asdict(Holder.this()))
    stays, file = False, None
    with contextlib.ExitStack() as stack:
        with storage.told(f"MODEL_DIR='{model_dir}' cannot be written to"):
            if storage.is_remote(path):
                _take_remote(path, model_dir, record)
            else:
                file = stack.enter_context(_taken(path, model_dir, record))
        try:
            yield
        except Restart:
            stays = True
            if file is not None:
                process.hand_on(file)
            raise
        finally:
            with contextlib.suppress(*storage.errors()):
                # Somebody may have removed it by hand, for another run.
                if not stays and storage.read_text(path) == record:
                    storage.remove(path)
            if not storage.is_remote(path):
                with contextlib.suppress(OSError):
                    # Of a run that ended before it wrote anything else.
                    os.rmdir(os.path.dirname(path))


def _taken(path: str, model_dir: str, record: str) -> Any:
    """The file of a local lock, which this process has until it closes it."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    while True:
        file = open(path, "a+", encoding="utf-8")
        try:
            left_by = _left_by(file, model_dir)
            # The process that had it may have removed the file since it was opened.
            if os.path.exists(path) and os.path.samestat(os.stat(path), os.fstat(file.fileno())):
                _tell(left_by, model_dir)
                file.truncate(0)
                file.write(record)
                file.flush()
                return file
        except BaseException:
            file.close()
            raise
        file.close()


def _left_by(file: Any, model_dir: str) -> Holder | None:
    """Locks a file, and returns the process of before that did not remove it.

    Raises:
      UserError: another process has the lock, or may have it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_unlocked = True
    except BlockingIOError:
        file.seek(0)
        holder = Holder.said_by(file.read())
        if _is_handed_on(holder):
            return None
        raise _refusal(holder, model_dir) from None
    except OSError:
        # The file system has no locks.
        is_unlocked = False
    file.seek(0)
    return _dead(Holder.said_by(file.read()), is_unlocked, model_dir)


def _dead(holder: Holder | None, is_unlocked: bool, model_dir: str) -> Holder | None:
    """The process that a lock's file names, if it has ended; None if it names none.

    Raises:
      UserError: it runs, or may run.
    """
    if holder is None or _is_handed_on(holder):
        return None
    lives = holder.is_alive(is_unlocked)
    if lives:
        raise _refusal(holder, model_dir)
    if lives is None:
        raise UserError(
            f"MODEL_DIR='{model_dir}' is in use by {holder}, which may have ended: if it has, "
            f"remove {ModelDir(model_dir).in_use}; if not, wait until it does, or give another "
            "MODEL_DIR"
        )
    return holder


def _is_handed_on(holder: Holder | None) -> bool:
    """Whether this process had the lock before it started anew, and so has it still."""
    if holder is None or not process.has_restarted():
        return False
    return holder == dataclasses.replace(Holder.this(), since=holder.since)


def _refusal(holder: Holder | None, model_dir: str) -> UserError:
    return UserError(
        f"MODEL_DIR='{model_dir}' is in use by {holder or 'another process'}: wait until it ends, "
        "or give another MODEL_DIR"
    )


def _take_remote(path: str, model_dir: str, record: str) -> None:
    said = storage.read_text(path) if storage.exists(path) else ""
    _tell(_dead(Holder.said_by(said), False, model_dir), model_dir)
    storage.write_atomically(path, record)


def _tell(left_by: Holder | None, model_dir: str) -> None:
    if left_by is not None:
        runtime.tell(
            f"MODEL_DIR='{model_dir}' was left in use by {left_by}, which has ended: this run "
            "takes it over"
        )

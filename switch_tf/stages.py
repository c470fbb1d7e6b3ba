"""What takes long tells that it goes on, on stderr; without control characters in a file."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

import tqdm

from switch_tf import process, runtime

# Seconds between two lines of a stage that goes on.
_EVERY = 5.0
# The stages that go on, of which only the last, which is part of the others, tells.
_going_on: list[object] = []


@contextlib.contextmanager
def _innermost() -> Iterator[Callable[[], bool]]:
    """Context of a stage; yields a function that says whether no other began in it."""
    stage = object()
    _going_on.append(stage)
    try:
        yield lambda: _going_on[-1:] == [stage]
    finally:
        _going_on.remove(stage)


@contextlib.contextmanager
def telling(what: str, at_once: bool = True) -> Iterator[Callable[[str], None]]:
    """Context of a stage of a command, which tells on stderr every few seconds that it goes on.

    Yields a function that takes how far it is, for the next line. Of several processes, only the
    chief tells.

    Args:
      what: what is done in it, such as "building the model".
      at_once: whether to tell at its start, too; False where another line has done so.

    Raises:
      Interruption: a signal came before it, and a library swallowed what it raised.
    """
    process.check_interrupted()
    started, ended, parts = time.monotonic(), threading.Event(), [""]

    def tell_while_it_lasts():
        while not ended.wait(_EVERY):
            if not is_innermost():
                continue
            so_far = f"{parts[0]}{time.monotonic() - started:.0f} s so far"
            tqdm.tqdm.write(f"{what}: {so_far}", file=sys.stderr)

    def take(part):
        parts[0] = f"{part}, "

    if not runtime.is_chief():
        yield take
        return
    if at_once:
        tqdm.tqdm.write(what, file=sys.stderr)
    thread = threading.Thread(target=tell_while_it_lasts, daemon=True)
    with _innermost() as is_innermost:
        thread.start()
        try:
            yield take
        finally:
            ended.set()
            thread.join()


@contextlib.contextmanager
def importing(what: str) -> Iterator[None]:
    """Context in which TensorFlow is imported, which tells on stderr that it goes on.

    While its libraries are loaded, no other thread of this process runs, so a process of its own
    tells. If TensorFlow is there already, this is as `telling`, as forking would be unsafe.

    Args:
      what: what is done in it, such as "starting TensorFlow".
    """
    if "tensorflow" in sys.modules or not runtime.is_chief():
        with telling(what):
            yield
        return
    process.check_interrupted()
    tqdm.tqdm.write(what, file=sys.stderr)
    sys.stderr.flush()
    parent, child = os.getpid(), os.fork()
    if not child:
        _tell_for(parent, what)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _tell_for(parent: int, what: str) -> NoReturn:
    """Tells until the process that it tells for has ended or ends it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # They are for the parent.
        signal.signal(number, signal.SIG_IGN)
    started = time.monotonic()
    while os.getppid() == parent:
        time.sleep(_EVERY)
        # Nothing of Python's that a fork may have left locked.
        os.write(2, f"{what}: {time.monotonic() - started:.0f} s so far\n".encode())
    os._exit(0)


@contextlib.contextmanager
def counting(
    what: str, unit: str, total: int | None = None, at_once: bool = True
) -> Iterator[Callable[[int], None]]:
    """Context of a stage that counts: a bar on a terminal; elsewhere it is as `telling`.

    Yields a function that takes how many more are done.

    Args:
      what: what is done in it, such as "reading files".
      unit: what is counted, in the plural.
      total: how many there are; None if this is not known.
      at_once: whether to tell at its start; False where it is usually too short to be shown.
    """
    if sys.stderr.isatty() and runtime.is_chief():
        delay = 0.0 if at_once else _EVERY
        bar = tqdm.tqdm(total=total, desc=what, unit=f" {unit}", delay=delay)
        with _innermost(), bar:
            yield bar.update
        return
    done, of = 0, f" of {total:,}" if total else ""
    with telling(what, at_once) as tell:

        def add(number: int = 1) -> None:
            nonlocal done
            done += number
            tell(f"{done:,}{of} {unit}")

        yield add

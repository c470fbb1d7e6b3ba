"""Runs a command as several hosts on this machine: `python -m switch_tf.hosts.local N COMMAND`."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from switch_tf.hosts.cluster import Cluster

LOGS = Path("runs", "local_cluster")
_USAGE = "usage: scripts/local_cluster.sh N COMMAND..., with N from 1 to 64"
# Seconds that the others have to end by themselves, naming the host that was lost.
_GRACE = 30.0
_PAUSE = 0.2
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main(argv: Sequence[str]) -> int:
    """Runs `N COMMAND...`; returns the exit status.

    Args:
      argv: the number of hosts, and the command with its arguments.
    """
    if len(argv) < 2 or not argv[0].isdecimal() or not 1 <= int(argv[0]) <= 64:
        print(_USAGE, file=sys.stderr)
        return 2
    number, command = int(argv[0]), list(argv[1:])
    if shutil.which(command[0]) is None:
        print(f"local_cluster: there is no command '{command[0]}'", file=sys.stderr)
        return 2
    return run(number, command, LOGS)


def run(number: int, command: Sequence[str], logs: Path, grace: float = _GRACE) -> int:
    """Runs a command as several hosts; returns the status of the first that ends badly, or 0.

    Args:
      number: how many hosts.
      command: the command of each.
      logs: the folder for their output, host_<i>.log; that of the chief is shown, too.
      grace: seconds that the others have to end when one has ended badly.
    """
    logs.mkdir(parents=True, exist_ok=True)
    addresses, processes = free_addresses(number), []
    with contextlib.ExitStack() as stack:
        for index in range(number):
            path = logs / f"host_{index}.log"
            output = stack.enter_context(open(path, "wb"))
            own = Cluster(addresses, index, "local_cluster").variables() if number > 1 else {}
            processes.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=os.environ | own,
                    start_new_session=True,
                )
            )
        shown = stack.enter_context(open(logs / "host_0.log", "rb"))
        stack.enter_context(_forwarding(processes))
        status = _wait(processes, shown, grace)
    if status:
        print(f"local_cluster: status {status}; the output of each host is in {logs}")
    return status


def _wait(processes: Sequence[subprocess.Popen], shown, grace: float) -> int:
    """Shows the chief's output until all have ended; ends those left when one ended badly."""
    first, end = 0, None
    while True:
        # Before the output, so that what a process wrote last is shown, too.
        codes = [process.poll() for process in processes]
        sys.stdout.write(shown.read().decode("utf-8", "replace"))
        sys.stdout.flush()
        for index, code in enumerate(codes):
            if code and not first:
                first = code if code > 0 else 128 - code
                end = time.monotonic() + grace
                print(f"local_cluster: host {index} ended with status {first}", flush=True)
        if None not in codes:
            return first
        if end is not None and time.monotonic() > end:
            for process in processes:
                if process.poll() is None:
                    process.kill()
        time.sleep(_PAUSE)


@contextlib.contextmanager
def _forwarding(processes: Sequence[subprocess.Popen]) -> Iterator[None]:
    """Hands SIGINT and SIGTERM on to all hosts, and leaves none behind."""

    def hand_on(number, _):
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for process in processes:
            if process.poll() is None:
                process.kill()


def free_addresses(number: int) -> tuple[str, ...]:
    """As many addresses of this machine, with ports that nothing has now."""
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)
        ]
        return tuple(f"localhost:{server.getsockname()[1]}" for server in servers)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

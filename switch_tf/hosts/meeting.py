"""The meeting of all hosts before TensorFlow starts, which says at once who is missing or differs.

TensorFlow's own start waits for all hosts, too, but without a word on who is missing.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Mapping

from switch_tf.errors import HostLost, UserError
from switch_tf.hosts.cluster import Cluster

# Seconds between two tries to reach the chief.
_PAUSE = 0.5
# Seconds in which one that has come must say who it is.
_SILENCE = 5.0


def meet(cluster: Cluster, said: Mapping[str, str], timeout: float) -> None:
    """Waits until all hosts have come, and compares what they were started with.

    Args:
      cluster: the hosts.
      said: setting -> its text, which must be the same on all hosts.
      timeout: seconds to wait.

    Raises:
      HostLost: a host is missing at the end of that time. The chief and the hosts that have come
        say which.
      UserError: a host differs in a setting.
    """
    end = time.monotonic() + timeout
    if cluster.index == 0:
        _receive(cluster, said, end, timeout)
    else:
        _come(cluster, said, end, timeout)


def _receive(cluster: Cluster, said: Mapping[str, str], end: float, timeout: float) -> None:
    """The chief's part: hears all others, then tells them whether the run begins."""
    came: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_server(cluster))
        error, is_missing = "", False
        while not error and len(came) < len(cluster.addresses) - 1:
            server.settimeout(max(end - time.monotonic(), 0.001))
            try:
                connection, _ = server.accept()
            except TimeoutError:
                error, is_missing = _missing(cluster, came, timeout), True
                break
            stack.enter_context(connection)
            # A host speaks at once; what does not must not hold up the others.
            connection.settimeout(_SILENCE)
            heard = _heard(connection)
            if heard is None:
                # Not a host of a run, such as a scan of ports.
                continue
            index = heard["host"]
            came[index] = connection
            error = _difference(cluster, index, said, heard["said"])
        for connection in came.values():
            with contextlib.suppress(OSError):
                connection.sendall(_message({"error": error, "missing": is_missing}))
        if error:
            raise (HostLost if is_missing else UserError)(error)


def _server(cluster: Cluster) -> socket.socket:
    port = int(cluster.addresses[0].rpartition(":")[2])
    try:
        return socket.create_server(("", port), backlog=len(cluster.addresses))
    except OSError as error:
        raise UserError(
            f"{cluster.name(0)} cannot have port {port}: {error.strerror or error}; end what has "
            "it, or give another port"
        ) from error


def _missing(cluster: Cluster, came: Mapping[int, object], timeout: float) -> str:
    names = [cluster.name(i) for i in range(1, len(cluster.addresses)) if i not in came]
    return (
        f"{' and '.join(names)} did not start within {timeout:g} s (Hosts.timeout): start the same "
        "command on each host, and see their output"
    )


def _difference(
    cluster: Cluster, index: int, ours: Mapping[str, str], theirs: Mapping[str, str]
) -> str:
    for name in sorted({*ours, *theirs}):
        mine, other = ours.get(name, "nothing"), theirs.get(name, "nothing")
        if mine != other:
            return (
                f"{cluster.name(index)} was started with {name}={other}, but {cluster.name(0)} "
                f"with {mine}: start the same command on each host"
            )
    return ""


def _come(cluster: Cluster, said: Mapping[str, str], end: float, timeout: float) -> None:
    """The part of every host but the chief: reports to it, and hears whether the run begins."""
    name, _, port = cluster.addresses[0].rpartition(":")
    why = "no answer"
    while time.monotonic() < end:
        try:
            with socket.create_connection((name, int(port)), timeout=_left(end)) as connection:
                connection.sendall(_message({"host": cluster.index, "said": dict(said)}))
                connection.settimeout(_left(end) + _PAUSE)
                answer = _heard(connection)
        except OSError as error:
            why = error.strerror or str(error)
            answer = None
        if answer is not None:
            if answer["error"]:
                raise (HostLost if answer.get("missing") else UserError)(answer["error"])
            return
        time.sleep(_PAUSE)
    raise HostLost(
        f"{cluster.name(0)}, the chief, cannot be reached within {timeout:g} s (Hosts.timeout): "
        f"{why}; start the same command there, and see that the network lets this host through"
    )


def _left(end: float) -> float:
    return max(end - time.monotonic(), 0.001)


def _message(content: Mapping) -> bytes:
    return json.dumps(content).encode() + b"\n"


def _heard(connection: socket.socket) -> dict | None:
    """What the other side says in one line; None if it says nothing that can be read."""
    try:
        with connection.makefile("rb") as file:
            found = json.loads(file.readline())
    except (OSError, ValueError):
        return None
    return (
        found
        if isinstance(found, dict) and ({"host", "said"} <= {*found} or "error" in found)
        else None
    )

"""What the hosts of a run agree on while it goes on, through TensorFlow's coordination service.

All of it is at once where a process is alone. Hosts do the same in the same order, so a name needs
to be unique only among what they may be doing at the same time; each use of it is counted.
"""

from __future__ import annotations

import collections
import contextlib
import os
import re
import time
from collections.abc import Iterator, Sequence

from switch_tf.errors import HostLost
from switch_tf.hosts.cluster import Cluster
from switch_tf.hosts.settings import TIMEOUT

# Answers to `stops` are kept this long, for hosts that are behind the chief.
_KEPT_ANSWERS = 1000
_WANTED = "a host stops"
# Seconds between two looks whether those that are waited for are still there.
_LOOK_EVERY = 5.0
_timeout = TIMEOUT
_uses: collections.Counter[str] = collections.Counter()


def begin(timeout: float) -> None:
    """Sets how many seconds hosts wait for each other."""
    global _timeout
    _timeout = timeout


def _cluster() -> Cluster | None:
    """The hosts, as `cluster.settle` has left them in the environment."""
    return Cluster.find(os.environ) if os.environ.get("DTENSOR_JOBS") else None


def is_alone() -> bool:
    """Whether this process is the only host of its run."""
    return _cluster() is None


def parts(name: str) -> list[str]:
    """What each host calls its part of something: one name a host; the name itself where alone."""
    cluster = _cluster()
    if cluster is None:
        return [name]
    number = len(cluster.addresses)
    return [f"{name}.part-{host:05d}-of-{number:05d}" for host in range(number)]


def barrier(name: str) -> None:
    """Waits until all hosts have come here.

    Args:
      name: what they are doing, for the error.

    Raises:
      HostLost: one has not come in time, or has ended; the message names it.
    """
    if is_alone():
        return
    with _told(f"waiting for all hosts: {name}"):
        _service().wait_at_barrier(_next(name), _milliseconds(_timeout))


def any_of(name: str, flag: bool) -> bool:
    """Whether a flag is set on any host.

    Args:
      name: as for `barrier`.
      flag: this host's.

    Raises:
      HostLost: see `barrier`.
    """
    if is_alone():
        return flag
    use = _next(name)
    _say(use, str(int(flag)))
    return max(_said_by_all(use, name)) == "1"


def to_chief(name: str, text: str) -> list[str]:
    """The texts of all hosts, in their order, on the chief; none on the others.

    Args:
      name: as for `barrier`.
      text: this host's.

    Raises:
      HostLost: see `barrier`.
    """
    if is_alone():
        return [text]
    use = _next(name)
    _say(use, text)
    if _cluster().index:
        return []
    found = _said_by_all(use, name)
    # Texts may be long, and nobody else reads them.
    for host in range(len(found)):
        _service().delete_config_key_value(f"{use}/{host}")
    return found


def from_chief(name: str, text: str) -> str:
    """The chief's text, on all hosts.

    Args:
      name: as for `barrier`.
      text: this host's, which is used only of the chief.

    Raises:
      HostLost: see `barrier`.
    """
    if is_alone():
        return text
    return _said_by_chief(_next(name), text)


def stops(wanted: bool) -> bool:
    """Whether the run stops here because a host wants to: the same answer on all hosts.

    A host that wants to tells the chief, whose next answer then is yes.

    Args:
      wanted: whether this host wants to.

    Raises:
      HostLost: see `barrier`.
    """
    if is_alone():
        return wanted
    number, is_chief = _uses["stops"], _cluster().index == 0
    _uses["stops"] += 1
    if wanted and not _uses[_WANTED]:
        _uses[_WANTED] += 1
        _service().set_config_key_value(_WANTED, "1")
    answer = wanted or (is_chief and _is_there(_WANTED))
    if is_chief and number >= _KEPT_ANSWERS:
        _service().delete_config_key_value(f"stops {number - _KEPT_ANSWERS}")
    return _said_by_chief(f"stops {number}", str(int(answer))) == "1"


def _say(use: str, text: str) -> None:
    """Says a text to those who ask by `_said_by_all`."""
    with _told("telling the other hosts"):
        _service().set_config_key_value(f"{use}/{_cluster().index}", text)


def _said_by_all(use: str, name: str) -> list[str]:
    """What each host says at a use of a name."""
    hosts = range(len(_cluster().addresses))
    return [_heard(f"{use}/{host}", host, f"waiting for all hosts: {name}") for host in hosts]


def _said_by_chief(key: str, text: str) -> str:
    if _cluster().index == 0:
        _service().set_config_key_value(key, text)
        return text
    return _heard(key, 0, "waiting for the chief")


def _heard(key: str, host: int, doing: str) -> str:
    """A text that a host says, for which it is waited while no host has ended.

    Raises:
      HostLost: it is not said in time, or a host has ended.
    """
    import tensorflow as tf

    end = time.monotonic() + _timeout
    while True:
        left = end - time.monotonic()
        with _told(doing):
            try:
                wait = _milliseconds(min(left, _LOOK_EVERY))
                return _text(_service().get_config_key_value(key, wait))
            except tf.errors.DeadlineExceededError as error:
                if left <= _LOOK_EVERY:
                    raise HostLost(_lost([host], doing)) from error
        _check_all_there(doing)


def _check_all_there(doing: str) -> None:
    """Checks that no host's process has ended, where this is the chief.

    The others hear of it from the chief, which ends then; they would ask it without a time limit.

    Raises:
      HostLost: one has ended.
    """
    number = len(_cluster().addresses)
    if _cluster().index == 0:
        # Of the first so many tasks of the job: an error, or None of one that is there.
        states = _service().get_task_states([("worker", number)])
        ended = [host for host, error in enumerate(states) if error is not None]
        if ended:
            raise HostLost(_lost(ended, doing))


def _is_there(key: str) -> bool:
    import tensorflow as tf

    try:
        _service().get_config_key_value(key, 1)
    except (tf.errors.DeadlineExceededError, tf.errors.NotFoundError):
        return False
    return True


@contextlib.contextmanager
def losses_told() -> Iterator[None]:
    """Context in which what TensorFlow raises because a host has ended names that host.

    Raises:
      HostLost: a host has ended.
    """
    with _told("a host of the run has ended"):
        yield


@contextlib.contextmanager
def _told(doing: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if is_alone() or isinstance(error, HostLost) or not _is_loss(error):
            raise
        raise HostLost(_message(str(error), doing)) from error


def _is_loss(error: Exception) -> bool:
    """Whether an error says that another host has ended or does not answer."""
    import tensorflow as tf

    if not isinstance(error, tf.errors.OpError):
        return False
    signs = r"Collective ops is aborted|CoordinationService|heartbeat|timed out|failed to connect"
    return bool(re.search(f"{signs}|Socket closed|Connection reset", str(error)))


def _message(text: str, doing: str) -> str:
    """One line on a loss, which names the hosts that TensorFlow's text names."""
    cluster = _cluster()
    missing = text.partition("timed out task names")[2] or text
    named = {int(number) for number in re.findall(r"task:(\d+)", missing)}
    ports = set(re.findall(r"(?:ipv4|ipv6):\S*?:(\d+)", text))
    named |= {i for i, a in enumerate(cluster.addresses) if a.rpartition(":")[2] in ports}
    return _lost(sorted(named), doing)


def _lost(hosts: Sequence[int], doing: str) -> str:
    """One line on the loss of these hosts."""
    cluster = _cluster()
    others = [i for i in hosts if i < len(cluster.addresses) and i != cluster.index]
    who = " and ".join(map(cluster.name, others)) or "another host"
    return (
        f"{who} has ended or does not answer ({doing}): see its output; rerun the command on all "
        "hosts to resume"
    )


def _next(name: str) -> str:
    _uses[name] += 1
    return f"{name} {_uses[name]}"


def _milliseconds(seconds: float) -> int:
    return max(int(1000 * seconds), 1)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _service():
    from tensorflow.python.eager import context

    return context.context()

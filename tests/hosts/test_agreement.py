import collections

import pytest
import tensorflow as tf

from switch_tf.errors import HostLost
from switch_tf.hosts import agreement

HOSTS = {"DTENSOR_JOBS": "a:1,b:2,c:3", "DTENSOR_CLIENT_ID": "0"}


@pytest.fixture
def hosts(monkeypatch):
    for name, value in HOSTS.items():
        monkeypatch.setenv(name, value)


def test_a_process_alone_agrees_with_itself_at_once():
    assert agreement.is_alone()
    agreement.barrier("here")
    assert [agreement.any_of("flag", flag) for flag in (False, True)] == [False, True]
    assert [agreement.stops(wanted) for wanted in (False, True)] == [False, True]
    assert agreement.from_chief("text", "mine") == "mine"
    assert agreement.to_chief("text", "mine") == ["mine"]


class Service:
    """TensorFlow's coordination service, of which this process is one host and has heard others."""

    def __init__(self, heard):
        self.said = dict(heard)

    def set_config_key_value(self, key, value):
        self.said[key] = value

    def get_config_key_value(self, key, _):
        return self.said[key].encode()

    def delete_config_key_value(self, key):
        del self.said[key]


def test_the_chief_has_the_texts_of_all_in_their_order_and_then_forgets_them(hosts, monkeypatch):
    monkeypatch.setattr(agreement, "_uses", collections.Counter())
    service = Service({"text 1/2": "c", "text 1/1": "b", "other": "stays"})
    monkeypatch.setattr(agreement, "_service", lambda: service)
    assert agreement.to_chief("text", "a") == ["a", "b", "c"]
    assert service.said == {"other": "stays"}


def test_other_hosts_say_theirs_and_have_none(hosts, monkeypatch):
    monkeypatch.setenv("DTENSOR_CLIENT_ID", "1")
    monkeypatch.setattr(agreement, "_uses", collections.Counter())
    service = Service({})
    monkeypatch.setattr(agreement, "_service", lambda: service)
    assert agreement.to_chief("text", "b") == []
    assert service.said == {"text 1/1": "b"}


@pytest.mark.parametrize(
    "kind, text, named",
    [
        (
            tf.errors.DeadlineExceededError,
            "Barrier timed out.\nThe first task at the barrier: /job:worker/replica:0/task:0. Some "
            "timed out task names:\n/job:worker/replica:0/task:1\n/job:worker/replica:0/task:2\n",
            "host 1 (b:2) and host 2 (c:3)",
        ),
        (
            tf.errors.InternalError,
            "Barrier failed because: UNAVAILABLE: Task /job:worker/replica:0/task:2 heartbeat "
            "timeout.",
            "host 2 (c:3)",
        ),
        (
            tf.errors.UnavailableError,
            "Collective ops is aborted by: failed to connect to all addresses; last error: "
            "UNKNOWN: ipv4:127.0.0.1:2: Failed to connect to remote host",
            "host 1 (b:2)",
        ),
        (tf.errors.UnavailableError, "Socket closed", "another host"),
    ],
)
def test_what_tensorflow_says_of_a_lost_host_is_one_line_that_names_it(hosts, kind, text, named):
    with pytest.raises(HostLost) as told, agreement.losses_told():
        raise kind(None, None, text)
    assert str(told.value) == (
        f"{named} has ended or does not answer (a host of the run has ended): see its output; "
        "rerun the command on all hosts to resume"
    )
    assert told.value.status == 75


@pytest.mark.parametrize(
    "error",
    [ValueError("Socket closed"), tf.errors.InvalidArgumentError(None, None, "shapes differ")],
)
def test_other_errors_stay_what_they_are(hosts, error):
    with pytest.raises(type(error)), agreement.losses_told():
        raise error


def test_alone_no_error_is_of_another_host():
    with pytest.raises(tf.errors.UnavailableError), agreement.losses_told():
        raise tf.errors.UnavailableError(None, None, "Socket closed")


class Late(Service):
    """A service whose text comes after so many looks; before each, hosts are in some state."""

    def __init__(self, looks, lost=None):
        super().__init__({})
        self.looks, self.lost, self.waits = looks, lost, []

    def get_config_key_value(self, key, wait):
        self.waits.append(wait)
        if len(self.waits) <= self.looks:
            raise tf.errors.DeadlineExceededError(None, None, "GetKeyValue() timed out with key")
        return b"1"

    def get_task_states(self, hosts):
        assert hosts == [("worker", 3)]
        return [None, self.lost, None]


def test_what_a_host_says_late_is_waited_for_while_all_are_there(hosts, monkeypatch):
    service = Late(looks=3)
    monkeypatch.setattr(agreement, "_service", lambda: service)
    assert agreement.any_of("flag", False)
    assert max(service.waits) <= 5000


def test_a_host_that_has_ended_is_not_waited_for(hosts, monkeypatch):
    text = "Task /job:worker/replica:0/task:1 heartbeat timeout."
    service = Late(looks=10**6, lost=tf.errors.UnavailableError(None, None, text))
    monkeypatch.setattr(agreement, "_service", lambda: service)
    with pytest.raises(HostLost, match=r"host 1 \(b:2\) has ended or does not answer"):
        agreement.to_chief("text", "a")
    assert len(service.waits) == 1


def test_a_host_that_says_nothing_in_time_is_named(hosts, monkeypatch):
    monkeypatch.setattr(agreement, "_service", lambda: Late(looks=10**6))
    monkeypatch.setattr(agreement, "_timeout", 0.1)
    monkeypatch.setenv("DTENSOR_CLIENT_ID", "1")
    with pytest.raises(HostLost, match=r"^host 0 \(a:1\) has ended .* \(waiting for the chief\)"):
        agreement.from_chief("text", "mine")


def test_other_hosts_than_the_chief_do_not_ask_it_who_is_there(hosts, monkeypatch):
    """If it is gone, they would not come back from that."""
    service = Late(looks=3, lost=tf.errors.UnavailableError(None, None, "gone"))
    monkeypatch.setattr(agreement, "_service", lambda: service)
    monkeypatch.setenv("DTENSOR_CLIENT_ID", "1")
    assert agreement.from_chief("text", "mine") == "1"

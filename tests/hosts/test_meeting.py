import contextlib
import socket
import threading
import time

import pytest

from switch_tf.errors import UserError
from switch_tf.hosts import meeting
from switch_tf.hosts.cluster import Cluster
from switch_tf.hosts.local import free_addresses
from switch_tf.hosts.meeting import meet

# Of the hosts whose meeting failed.
statuses = []


def outcomes(number, said, come=None, timeout=20.0):
    """What the meeting of hosts gives each: None or its error.

    Args:
      number: how many hosts there should be.
      said: what each says.
      come: those that come; None for all.
      timeout: seconds.
    """
    named, found = free_addresses(number), {}
    statuses.clear()

    def take_part(index):
        try:
            found[index] = meet(Cluster(named, index, "a test"), said[index], timeout)
        except UserError as error:
            found[index] = str(error).replace(named[index], "HERE")
            statuses.append(error.status)

    threads = [threading.Thread(target=take_part, args=[i]) for i in come or range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return named, found


def test_all_hosts_come_and_go_on():
    assert outcomes(3, [{"BATCH_SIZE": "8"}] * 3)[1] == {0: None, 1: None, 2: None}


def test_the_missing_host_is_named_by_all_that_came():
    named, found = outcomes(4, [{}] * 4, come=[0, 2], timeout=2.0)
    message = (
        f"host 1 ({named[1]}) and host 3 ({named[3]}) did not start within 2 s (Hosts.timeout): "
        "start the same command on each host, and see their output"
    )
    assert found == {0: message, 2: message}
    # Temporary failures.
    assert statuses == [75, 75]


def test_a_chief_that_is_missing_is_named():
    named, found = outcomes(2, [{}] * 2, come=[1], timeout=1.0)
    assert found[1] == (
        f"host 0 ({named[0]}), the chief, cannot be reached within 1 s (Hosts.timeout): "
        "Connection refused; start the same command there, and see that the network lets this "
        "host through"
    )


def test_a_setting_that_differs_is_named_by_all():
    said = [{"a": "1", "b": "2"}, {"a": "1", "b": "3"}]
    named, found = outcomes(2, said)
    assert found[1].startswith("host 1 (HERE) was started with b=3, but host 0 (")
    assert found[0].startswith(f"host 1 ({named[1]}) was started with b=3, but host 0 (HERE) with ")
    assert statuses == [2, 2]


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        cluster = Cluster((f"localhost:{port}", "localhost:1"), 0, "a test")
        with pytest.raises(UserError, match=rf"^host 0 \(.*\) cannot have port {port}: Address"):
            meet(cluster, {}, 1.0)


@pytest.mark.parametrize("is_silent", [False, True])
def test_what_is_no_host_is_not_taken_for_one(monkeypatch, is_silent):
    monkeypatch.setattr(meeting, "_SILENCE", 0.2)
    named, found = free_addresses(2), {}
    chief = Cluster(named, 0, "a test")
    thread = threading.Thread(target=lambda: found.setdefault(0, meet(chief, {}, 20.0)))
    thread.start()
    port = int(named[0].rpartition(":")[2])
    with contextlib.ExitStack() as stack:
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                stranger = stack.enter_context(socket.create_connection(("localhost", port)))
                break
            time.sleep(0.05)
        if not is_silent:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            stranger.close()
        meet(Cluster(named, 1, "a test"), {}, 20.0)
        thread.join()
    assert found == {0: None}

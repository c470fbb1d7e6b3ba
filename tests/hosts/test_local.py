import os
import signal
import subprocess
import sys
import time

import pytest

from switch_tf.hosts import local

# Says which host it is, then does what its argument says for that host.
TOY = """
import os, sys, time
host = int(os.environ.get("DTENSOR_CLIENT_ID", 0))
print(f"host {host} of {os.environ.get('DTENSOR_JOBS', '').count(':')}", flush=True)
exec(sys.argv[1 + host])
"""


def run(tmp_path, *doing, grace=5.0):
    command = [sys.executable, "-c", TOY, *doing]
    return local.run(len(doing), command, tmp_path / "logs", grace)


def test_each_host_has_a_log_and_the_chiefs_is_shown(tmp_path, capsys):
    assert run(tmp_path, "print('done')", "") == 0
    assert capsys.readouterr().out == "host 0 of 2\ndone\n"
    logs = sorted((tmp_path / "logs").iterdir())
    assert [log.read_text() for log in logs] == ["host 0 of 2\ndone\n", "host 1 of 2\n"]


def test_one_host_is_alone(tmp_path, capsys):
    assert run(tmp_path, "") == 0
    assert capsys.readouterr().out == "host 0 of 0\n"


def test_when_one_ends_badly_the_others_are_ended(tmp_path, capsys):
    started = time.monotonic()
    assert run(tmp_path, "time.sleep(100)", "sys.exit(7)", grace=0.5) == 7
    assert time.monotonic() - started < 50
    told = capsys.readouterr().out
    assert "local_cluster: host 1 ended with status 7\n" in told
    assert told.endswith(
        f"local_cluster: status 7; the output of each host is in {tmp_path}/logs\n"
    )


def test_a_host_that_is_killed_has_the_shells_status(tmp_path):
    assert run(tmp_path, "", f"os.kill(os.getpid(), {int(signal.SIGKILL)})") == 137


def test_a_signal_goes_to_all_hosts(tmp_path):
    doing = "import signal; signal.signal(15, lambda *_: sys.exit(3)); time.sleep(100)"
    command = [sys.executable, "-m", "switch_tf.hosts.local", "2", sys.executable, "-c", TOY]
    process = subprocess.Popen(
        [*command, doing, doing],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "host 0 of 2\n"
    other = tmp_path / "runs/local_cluster/host_1.log"
    while other.read_text() != "host 1 of 2\n":
        time.sleep(0.05)
    # Its handler follows its first line.
    time.sleep(0.5)
    process.terminate()
    assert process.wait() == 3


@pytest.mark.parametrize("argv", [[], ["2"], ["0", "true"], ["x", "true"], ["65", "true"]])
def test_other_arguments_are_one_line(argv, capsys):
    assert local.main(argv) == 2
    assert capsys.readouterr().err.startswith("usage: scripts/local_cluster.sh N COMMAND")


def test_a_command_that_is_not_there_is_one_line(capsys):
    assert local.main(["2", "no-such-command"]) == 2
    assert capsys.readouterr().err == "local_cluster: there is no command 'no-such-command'\n"

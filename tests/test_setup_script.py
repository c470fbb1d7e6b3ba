"""scripts/setup.sh with a Python and a pip that install nothing."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PYTHON = f"""#!/bin/bash
if [[ $1 == -c ]]; then exec {sys.executable} "$@"; fi
echo made >> made.txt
mkdir $3/bin && cp pip $3/bin/pip && cp compiler $3/bin/python
bash during_venv.sh
"""
PIP = """#!/bin/bash
if [[ $* == *"-e ."* ]]; then
  touch ${0%/pip}/switch-tf && chmod +x ${0%/pip}/switch-tf
  exit
fi
echo "Collecting a==1"
echo "$*" > installed.txt
"""
# It knows nothing else to do, and fails, which does not matter.
COMPILER = '#!/bin/bash\n[[ $* == "-m compileall "* ]] && exit 1\nkill $PPID\n'
INSTALLS = "echo 'Installing collected packages: a, b'\n"
HANGS = "sleep 600 &\ntouch hangs.txt\nwait\n"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder whose lock has two packages."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "setup.sh", tmp_path / "scripts")
    (tmp_path / "requirements.txt").write_text("a==1\nb==2\n")
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "during_venv.sh").touch()
    write(tmp_path / "bin" / "python3.11", PYTHON)
    write(tmp_path / "pip", PIP + INSTALLS)
    write(tmp_path / "compiler", COMPILER)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    # The tests may themselves run with another lock.
    monkeypatch.delenv("SWITCH_TF_LOCK", raising=False)
    return tmp_path


def write(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def start(project):
    """Sources it as the scripts do; signals count, also where the tests run in the background."""
    return subprocess.Popen(
        ["bash", "-c", "set -euo pipefail; source scripts/setup.sh; echo then"],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: [
            signal.signal(n, signal.SIG_DFL) for n in (signal.SIGHUP, signal.SIGINT)
        ],
    )


def ended(process):
    """Its status and output, which ends when nothing is left of what it started."""
    out, err = process.communicate(timeout=60)
    return process.returncode, out.splitlines(), err


def told(lines):
    """Without the seconds in front."""
    return [line.partition("] ")[2] or line for line in lines]


def test_it_installs_once_for_a_lock(project):
    status, lines, err = ended(start(project))
    assert (status, err) == (0, "")
    assert told(lines) == [
        "making .venv",
        "installing 2 packages from the lock (some minutes)",
        "compiling them",
        "installing switch-tf",
        "done",
        "then",
    ]
    assert told(ended(start(project))[1]) == [".venv is up to date", "then"]
    (project / "requirements.txt").write_text("a==1\nb==2\nc==3\n")
    assert told(ended(start(project))[1])[-2:] == ["done", "then"]
    assert (project / "made.txt").read_text() == "made\n"


def test_the_lock_for_tpu_has_an_environment_beside_the_other(project, monkeypatch):
    (project / "requirements-tpu.txt").write_text("a==1\nb==2\nc==3\n")
    assert ended(start(project))[0] == 0
    assert "-r requirements.txt" in (project / "installed.txt").read_text()
    monkeypatch.setenv("SWITCH_TF_LOCK", "tpu")
    lines = told(ended(start(project))[1])
    assert lines[:2] == [
        "making .venv-tpu",
        "installing 3 packages from the lock (some minutes)",
    ]
    assert "-r requirements-tpu.txt" in (project / "installed.txt").read_text()
    assert told(ended(start(project))[1]) == [".venv-tpu is up to date", "then"]
    monkeypatch.delenv("SWITCH_TF_LOCK")
    assert told(ended(start(project))[1]) == [".venv is up to date", "then"]


def test_a_lock_that_there_is_not_is_one_line(project, monkeypatch):
    monkeypatch.setenv("SWITCH_TF_LOCK", "gpu")
    told_of = "error: SWITCH_TF_LOCK=gpu: give 'tpu', or leave it out\n"
    assert ended(start(project)) == (2, [], told_of)


def test_the_tests_run_with_the_lock_that_is_asked_for(project):
    """What test.sh starts is told by stubs of ruff and pytest."""
    shutil.copy(ROOT / "scripts" / "test.sh", project / "scripts")
    (project / "requirements-tpu.txt").write_text("a==1\n")
    says = 'echo "${0#$PWD/} $*"\n'
    write(project / "compiler", f'#!/bin/bash\n[[ $* == "-m compileall "* ]] || {says}')
    write(project / "pip", PIP + "cp ruff ${0%/pip}/ruff\n" + INSTALLS)
    write(project / "ruff", f"#!/bin/bash\n{says}")
    pytest_runs = "-m pytest -n 2 --dist loadfile --no-loadscope-reorder"
    for arguments, venv in ((["tests/a.py"], ".venv"), (["tests/a.py", "--lock=tpu"], ".venv-tpu")):
        command = ["bash", "scripts/test.sh", *arguments]
        done = subprocess.run(command, cwd=project, capture_output=True, text=True)
        assert done.stdout.splitlines()[-3:] == [
            f"{venv}/bin/ruff check .",
            f"{venv}/bin/ruff format --check .",
            f"{venv}/bin/python {pytest_runs} tests/a.py",
        ], done.stderr


def test_no_ten_seconds_are_silent(project):
    script = project / "scripts" / "setup.sh"
    text = script.read_text()
    (seconds,) = re.findall(r"SECONDS - said >= (\d+)", text)
    assert int(seconds) < 10
    script.write_text(text.replace(f"said >= {seconds}", "said >= 1"))
    write(project / "pip", PIP + f"sleep 2\n{INSTALLS}sleep 2\n")
    status, lines, _ = ended(start(project))
    assert status == 0
    found = told(lines)
    stage = found.index("installing 2 packages from the lock (some minutes)")
    found = found[stage + 1 : found.index("compiling them")]
    # Before pip says something.
    found = [line for line in found if line != "still working"]
    assert found[0] == "downloading: 1 of 2 packages"
    assert found[-1].startswith("installing: .venv has ") and found[-1].endswith("K so far")


def test_what_pip_cannot_install_is_told_and_nothing_follows(project):
    write(project / "pip", PIP + "echo 'ERROR: no a' >&2\nexit 1\n")
    status, lines, err = ended(start(project))
    assert (status, err) == (1, "ERROR: no a\n")
    assert "then" not in lines


def test_a_change_of_the_lock_that_was_interrupted_and_taken_back_is_not_up_to_date(project):
    assert ended(start(project))[0] == 0
    lock = (project / "requirements.txt").read_text()
    (project / "requirements.txt").write_text(lock + "c==3\n")
    write(project / ".venv" / "bin" / "pip", "#!/bin/bash\nkill -TERM $PPID\nsleep 600\n")
    assert ended(start(project))[0] == 143
    (project / "requirements.txt").write_text(lock)
    assert told(ended(start(project))[1])[0] == "making .venv"


@pytest.mark.parametrize("hanging", ["pip", "during_venv.sh"])
@pytest.mark.parametrize(
    "number, send, status",
    [
        (signal.SIGHUP, os.killpg, 129),
        (signal.SIGINT, os.killpg, 130),
        (signal.SIGTERM, os.kill, 143),
    ],
)
def test_a_signal_ends_it_with_its_status_and_the_next_call_begins_anew(
    project, hanging, number, send, status
):
    """Ctrl-C goes to the group, a `kill` to the shell alone; nothing is left running."""
    whole = (project / hanging).read_text()
    write(project / hanging, whole + HANGS)
    process = start(project)
    while not (project / "hangs.txt").exists():
        assert process.poll() is None
        time.sleep(0.05)
    send(process.pid, number)
    code, lines, err = ended(process)
    assert code == status and "then" not in lines
    assert told(err.splitlines())[-1] == "interrupted; rerun the command to start the set-up again"
    write(project / hanging, whole)
    assert ended(start(project))[0] == 0
    assert (project / "made.txt").read_text() == "made\nmade\n"


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("*.sh")), ids=lambda s: s.name)
def test_every_script_can_be_run_by_its_name(script):
    assert os.access(script, os.X_OK)

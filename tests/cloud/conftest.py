"""A zone of the stub, a project of a few files, and the commands on them."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from switch_tf.cloud import __main__ as cloud
from switch_tf.cloud import tpu

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PYTHON = f'#!/bin/sh\nexec {sys.executable} -S -E {{}} "$@"\n'
# What the stub's set-up makes; it fails as long as the file is there.
SETUP = """
if [[ -e "$STUB_FOLDER/setup_fails" ]]; then echo "error: no such package" >&2; exit 1; fi
mkdir -p .venv-tpu/bin && cp "$STUB_FOLDER/switch-tf" .venv-tpu/bin/
echo "$SWITCH_TF_LOCK" >> "$STUB_FOLDER/locks.txt"
"""
CURL = """#!/bin/bash
case $* in
  *agent-worker-number) echo -n "$STUB_WORKER" ;;
  *worker-network-endpoints)
    for (( i = 0; i < STUB_WORKERS; i++ )); do list+=${list:+,}unknown:unknown:10.0.0.$i; done
    echo -n "$list" ;;
  *) exit 22 ;;
esac
"""
PLACE = ("--project=my-project", "--zone=us-central2-b")
MODEL = "--gin.MODEL_DIR='gs://bucket/model'"
COMMAND = ("--", "train", "--gin_file=models/switch_base.gin", MODEL)


class Zone:
    """The stub's folder, and commands of the scripts on it."""

    def __init__(self, folder, capsys):
        self.folder, self.capsys = folder, capsys
        self.model_dir = folder / "gs" / "bucket" / "model"

    def call(self, name, *words):
        """Runs a command on the slice tpu-a; returns its status, output and errors."""
        # Flags of the slice come before what the workers are to run.
        own = ["tpu-a"] * (name != "list") + [*PLACE, *words]
        status = cloud.main([name, *own])
        told = self.capsys.readouterr()
        return status, told.out, told.err

    def set(self, **faults):
        self.write("faults.json", faults)

    def write(self, name, value):
        (self.folder / name).write_text(json.dumps(value))

    def lines(self, name):
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def calls(self, *words):
        """The calls of gcloud that begin with these words, such as ("storage", "rm")."""
        found = [json.loads(line) for line in self.lines("calls.txt")]
        return [call for call in found if tuple(call[: len(words)]) == words]

    def created(self):
        return len(self.calls("compute", "tpus", "queued-resources", "create"))

    def exists(self):
        return bool(json.loads((self.folder / "zone.json").read_text()))

    def wait(self):
        """Until the slice is there."""
        for _ in range(3):
            self.call_gcloud("queued-resources", "describe", "tpu-a")

    def call_gcloud(self, *words):
        return subprocess.run(
            ["gcloud", "compute", "tpus", *words], capture_output=True, text=True, check=True
        ).stdout

    def make(self):
        """A slice that is set up."""
        assert self.call("create", "--type=v4-16")[0] == 0
        self.wait()
        assert self.call("set_up")[0] == 0

    def end(self):
        for path in self.folder.glob("workers/*/*/switch_tf_run/pid"):
            try:
                os.killpg(int(path.read_text()), signal.SIGKILL)
            except ProcessLookupError:
                pass


def program(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def python_program(path, source):
    """A program that starts fast."""
    program(path, f"#!{sys.executable} -SE\n{source.read_text()}")


def make_project(folder):
    """A git repository with what the scripts take from the project."""
    (folder / "scripts" / "tpu").mkdir(parents=True)
    (folder / "scripts" / "setup.sh").write_text(SETUP)
    shutil.copy(ROOT / tpu.WORKER, folder / tpu.WORKER)
    settings = ("-c", "user.name=n", "-c", "user.email=m")
    for words in (["init", "-q"], ["add", "."], [*settings, "commit", "-q", "-m", "m"]):
        subprocess.run(["git", *words], cwd=folder, check=True)


@pytest.fixture
def zone(tmp_path, monkeypatch, capsys):
    stub = tmp_path / "stub"
    python_program(stub / "switch-tf", HERE / "stub_run.py")
    python_program(tmp_path / "bin" / "gcloud", HERE / "stub_gcloud.py")
    program(stub / "worker_bin" / "curl", CURL)
    program(stub / "worker_bin" / "hostname", '#!/bin/sh\necho "$STUB_HOST"\n')
    program(stub / "worker_bin" / "python3.11", "#!/bin/sh\n")
    make_project(tmp_path / "project")
    monkeypatch.setattr(tpu, "ROOT", tmp_path / "project")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("STUB_FOLDER", str(stub))
    monkeypatch.setenv("STUB_WORKERS", "2")
    monkeypatch.delenv("CLOUDSDK_CORE_PROJECT", raising=False)
    monkeypatch.delenv("CLOUDSDK_COMPUTE_ZONE", raising=False)
    zone = Zone(stub, capsys)
    yield zone
    zone.end()

"""Commands in processes that cannot import TensorFlow, and which share their start-up."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

# Reads a request a line, forks a process that runs its command, and writes the status of that.
_SERVER = """
import json, os, sys, traceback

sys.modules["tensorflow"] = sys.modules["seqio"] = None
from switch_tf.commands.main import main


def status_of(arguments):
    try:
        main(arguments)
    except SystemExit as end:
        return end.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def run(arguments, folder, environment, files):
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    # The requests are not the command's to read.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    status = status_of(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


answers = os.fdopen(os.dup(1), "w")
# A command that is refused reads the project's sources, which take most of a start.
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
os.dup2(1, 2)
status_of(["train", "--gin_file=models/switch_tiny.gin", "--gin_file=runs/pretrain.gin"])
for line in sys.stdin:
    process = os.fork()
    if not process:
        run(*json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), file=answers, flush=True)
"""
_servers: list[subprocess.Popen] = []


def run_without_tensorflow(*arguments):
    """Runs the command as `subprocess.run` does, where importing TensorFlow or SeqIO fails."""
    if not _servers:
        command = [sys.executable, "-c", _SERVER]
        pipe = subprocess.PIPE
        _servers.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True))
    (server,) = _servers
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder, name)) for name in ("out", "err")]
        request = [list(arguments), os.getcwd(), dict(os.environ), files]
        print(json.dumps(request), file=server.stdin, flush=True)
        status = int(server.stdout.readline())
        told = (Path(file).read_text() for file in files)
        return subprocess.CompletedProcess(arguments, status, *told)

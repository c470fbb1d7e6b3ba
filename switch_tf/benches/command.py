"""Runs `switch-tf` in a new process."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def failure_of(arguments: Sequence[str], folder: Path | None = None) -> str | None:
    """Runs `switch-tf`; returns the last line that it wrote if it fails, otherwise None.

    Args:
      arguments: its arguments.
      folder: folder of the project's files to run it from; None runs this project's.
    """
    done = subprocess.run(
        [sys.executable, "-m", "switch_tf.commands.main", *arguments],
        cwd=folder,
        env=os.environ | ({"PYTHONPATH": str(folder)} if folder else {}),
        capture_output=True,
        text=True,
    )
    if not done.returncode:
        return None
    return (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]

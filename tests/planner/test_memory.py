import re
import subprocess
import sys

import pytest

FILES = ("models/switch_tiny.gin", "runs/plan.gin")
SIZE = ("BATCH_SIZE=48", "TransformerEncoderDecoder.num_layers=4")
PLAIN, REMATERIALIZED, IN_PARTS = (
    (),
    ("TransformerEncoderDecoder.rematerialize=True",),
    ("TrainStep.microbatches=4",),
)


def peak_megabytes(bindings) -> float:
    """By how much training steps raise the peak of a process of their own."""
    command = [sys.executable, "-m", "switch_tf.commands.main", "plan", "--memory"]
    command += [f"--gin_file={name}" for name in FILES]
    command += [f"--gin.{binding}" for binding in (*SIZE, *bindings)]
    done = subprocess.run(command, capture_output=True, text=True)
    size = r"([\d.,]+) ([MG]B)"
    told = re.search(f"raised this process's peak by {size}, to {size}", done.stdout)
    assert told, done.stdout + done.stderr
    megabytes = {"MB": 1, "GB": 1000}
    raised, peak = (float(told[i].replace(",", "")) * megabytes[told[i + 1]] for i in (1, 3))
    assert 0 < raised < peak
    return raised


@pytest.fixture(scope="module")
def plain():
    return peak_megabytes(PLAIN)


@pytest.mark.parametrize("bindings", [REMATERIALIZED, IN_PARTS], ids=["made again", "in parts"])
def test_the_peak_falls_by_what_is_not_kept(plain, bindings):
    """By more than what varies from run to run; compiling is part of all."""
    assert peak_megabytes(bindings) < plain - 250

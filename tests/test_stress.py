"""A short form of the stress of restarts; `python -m tests.stress` goes on for 60 kills."""

import json
import shutil

import pytest

from tests import stress
from tests.stress import Stress


@pytest.fixture(scope="module")
def stressed(tmp_path_factory):
    """Kills of one process: the first by SIGKILL as it saves, and then as it steps, evaluates."""
    found = Stress("1", tmp_path_factory.mktemp("stress"), seed=0)
    found.prepare()
    return found


def test_a_run_that_is_killed_becomes_what_it_would_have_been(stressed, monkeypatch):
    stressed.go_on(3)
    records = stressed.done()
    killed = [r for r in records if "signal" in r and not r["was_over"]]
    assert len(killed) == 3 and records[-1]["compared"]
    assert sum(record["restarts"] for record in records) > 0
    total = stress.summary(records, seed=0)
    assert total["kills"] == sum(total["kills_by_run_phase_signal"].values()) == 3
    # Nothing is left to do.
    stressed.go_on(3)
    assert stressed.done() == records


def test_a_run_that_lost_a_step_is_found(stressed, tmp_path):
    """The stress itself can fail."""
    run = tmp_path / "run"
    shutil.copytree(stressed.reference, run)
    assert not list(stress.differences("1", stressed.folder, run, stressed.reference))
    lines = (run / "metrics.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line).get("step") != 7]
    (run / "metrics.jsonl").write_text("\n".join(kept) + "\n")
    shutil.rmtree(run / f"checkpoint_{stress.STEPS}")
    shutil.copytree(run / f"checkpoint_{stress.STEPS - 4}", run / f"checkpoint_{stress.STEPS}")
    found = " ".join(stress.differences("1", stressed.folder, run, stressed.reference))
    assert "records of 'train'" in found and "in the last checkpoint" in found
    assert "batch 1 after the last step" in found

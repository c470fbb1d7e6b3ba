"""Runs that were not trained: what they would have logged."""

import json


def write(run, facts, *records):
    """Writes a run's folder: its facts, and records as `metrics.jsonl` has them."""
    run.model_dir.mkdir(parents=True, exist_ok=True)
    (run.model_dir / "run.json").write_text(json.dumps(facts))
    text = "".join(json.dumps(record) + "\n" for record in records)
    (run.model_dir / "metrics.jsonl").write_text(text)


def sat(run, *loads):
    """Writes a run's sittings of a minute, in which others used so many of two cores."""
    sittings = [{"seconds": 60.0, "others": others, "cores": 2} for others in loads]
    text = "".join(json.dumps(sitting) + "\n" for sitting in sittings)
    (run.model_dir / "sittings.jsonl").write_text(text)


def evaluation(step, task, **figures):
    """A record of an evaluation."""
    return {"step": step, "kind": "evaluation", "task": task} | figures

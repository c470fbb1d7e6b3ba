"""Runs that were not trained: what they would have logged."""

import json


def write(run, facts, *records):
    """Writes a run's folder: its facts, and records as `metrics.jsonl` has them."""
    write_folder(run.model_dir, facts, *records)


def write_folder(folder, facts, *records):
    """The same, of a MODEL_DIR. An empty checkpoint stands for the last one."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(facts))
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text(text)
    (folder / "checkpoint_1").mkdir(exist_ok=True)


def sat(run, *loads):
    """Writes a run's sittings of a minute, in which others used so many of two cores."""
    sittings = [{"seconds": 60.0, "others": others, "cores": 2} for others in loads]
    text = "".join(json.dumps(sitting) + "\n" for sitting in sittings)
    (run.model_dir / "sittings.jsonl").write_text(text)


def evaluation(step, task, **figures):
    """A record of an evaluation."""
    return {"step": step, "kind": "evaluation", "task": task} | figures


def results(runs):
    """Arm -> results of its runs, made anew from what they logged."""
    return {arm: [run.keep() for run in of_seeds] for arm, of_seeds in runs.items()}

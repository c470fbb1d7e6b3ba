import io
import json

import pytest

from switch_tf import config
from switch_tf.reproduce.display import Display, duration
from switch_tf.reproduce.training_run import TrainingRun
from tests.reproduce import logs

FILES = ("models/t5_tiny.gin", "layouts/data.gin", "tables/quickstart.gin")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def runs(tmp_path):
    """Two runs of ten steps, of one and of two minutes."""
    return [
        TrainingRun(
            f"run {n}", tmp_path / str(n), FILES, {"TRAIN_STEPS": 10}, tmp_path / f"{n}.json", n
        )
        for n in (1, 2)
    ]


def step(number, loss=3.0):
    return {"step": number, "kind": "train", "loss": loss, "tokens_per_second": 1000.0}


def append(run, *records):
    with open(run.paths.metrics, "a") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def watched(runs, stream, *batches, kept=None):
    """Shows the first run, to whose log records are added every ten seconds.

    If there are some to be kept, its log is first written anew with them, as by one that resumes.
    """
    now = [0.0]
    display = Display(runs, stream=stream, clock=lambda: now[0])
    for number, records in enumerate(((), *batches)):
        if number == 1 and kept is not None:
            # Not in place: a new file has a new inode.
            (runs[0].model_dir / "metrics.jsonl").rename(runs[0].model_dir / "before.jsonl")
            logs.write(runs[0], {}, *kept)
        append(runs[0], *records)
        display.watch(runs[:1])
        now[0] += 10.0
    display.end("done")
    return stream.getvalue()


def test_an_error_has_a_line_to_itself_behind_the_live_one(runs):
    for stream, end in ((Terminal(), "\n"), (io.StringIO(), "")):
        display = Display(runs, stream=stream)
        display.watch(runs[:1])
        shown = stream.getvalue()
        display.leave()
        assert shown and stream.getvalue() == shown + end


def test_first_it_says_what_will_run_and_how_long(runs):
    logs.write(runs[0], {}, logs.evaluation(10, "t", nlp=-1.0))
    stream = io.StringIO()
    Display(runs, stream=stream).plan()
    first, *rows = stream.getvalue().splitlines()
    assert first.startswith("2 runs, 1 of them done; about 2 min 0 s on idle cores with AVX2")
    assert [row.split() for row in rows] == [
        ["run", "1", "10", "steps", "done"],
        ["run", "2", "10", "steps", "2", "min", "0", "s"],
    ]


def test_a_file_gets_a_line_every_few_seconds_and_each_evaluation(runs):
    logs.write(runs[0], {})
    text = watched(
        runs, io.StringIO(), [step(1)], [step(6), logs.evaluation(6, "t", nlp=-2.0)], [step(10)]
    )
    assert text.splitlines() == [
        "[1/2] run 1: starting, 0 s",
        "[1/2] run 1: step 1/10, loss 3.000, 1,000 tokens/s",
        "  step 6  t  nlp -2",
        # Two seconds a step; the second run is foretold to take twice as long as the first.
        "[1/2] run 1: step 6/10, loss 3.000, 1,000 tokens/s, 8 s left, 1 min 4 s including later "
        "runs",
        "[1/2] run 1: step 10/10, evaluating",
        "done",
    ]


def test_a_terminal_has_one_live_line_under_what_stays(runs):
    logs.write(runs[0], {})
    text = watched(runs, Terminal(), [step(6), logs.evaluation(6, "t", nlp=-2.0)])
    assert "\r\x1b[K  step 6  t  nlp -2\n" in text
    assert text.count("\n") == 2
    assert text.endswith("\r\x1b[Kdone\n")


def test_a_resumed_run_does_not_show_its_old_evaluations_again(runs):
    before = logs.evaluation(4, "t", nlp=-2.0)
    logs.write(runs[0], {}, before)
    display = Display(runs, stream=(stream := io.StringIO()), clock=lambda: 0.0)
    display.watch(runs[:1])
    # As a run does that resumes: the log is written anew, and goes on.
    (runs[0].model_dir / "metrics.jsonl").unlink()
    logs.write(runs[0], {}, before, logs.evaluation(8, "t", nlp=-1.0))
    display.watch(runs[:1])
    assert "step 4" not in stream.getvalue()
    assert "step 8  t  nlp -1" in stream.getvalue()


def test_the_time_left_is_reckoned_from_the_steps_of_this_sitting(tmp_path):
    """Steps 1 to 450 are read again at once, and say nothing of how long a step takes."""
    run, later = (
        TrainingRun(f"run {n}", tmp_path / str(n), FILES, {"TRAIN_STEPS": 900}, tmp_path / "kept")
        for n in (1, 2)
    )
    kept = [step(n, loss=float("nan")) for n in range(50, 451, 50)]
    logs.write(run, {}, *kept, step(460) | {"tokens_per_second": 900.0})
    batches = [], [step(460)], [step(500)]
    text = watched([run, later], io.StringIO(), *batches, kept=kept)
    assert text.splitlines()[1:-1] == [
        "[1/2] run 1: step 450/900, loss nan, 1,000 tokens/s",
        "[1/2] run 1: step 460/900, loss 3.000, 1,000 tokens/s",
        # Half of the run takes 130 s in all, so that the next run takes 260 s.
        "[1/2] run 1: step 500/900, loss 3.000, 1,000 tokens/s, 1 min 40 s left, 6 min 0 s "
        "including later runs",
    ]


def test_what_a_run_tells_of_its_data_is_no_evaluation(runs):
    """It has the step and the task of an evaluation that may follow."""
    logs.write(runs[0], {})
    data = {"step": 6, "kind": "data", "task": "t", "truncated_inputs": 0.0}
    text = watched(runs, io.StringIO(), [data], [step(6), logs.evaluation(6, "t", nlp=-2.0)])
    assert "truncated" not in text
    assert "  step 6  t  nlp -2\n" in text


def test_watching_a_run_leaves_the_machine_to_it(runs, monkeypatch):
    """The gin files are read once a run, not every second."""
    read, precheck = [], config.precheck
    monkeypatch.setattr(config, "precheck", lambda *args: read.append(1) or precheck(*args))
    logs.write(runs[0], {})
    watched(runs, io.StringIO(), *([step(n)] for n in range(1, 10)))
    assert len(read) == len(runs)


@pytest.mark.parametrize(
    "seconds, text", [(0.4, "0 s"), (65, "1 min 5 s"), (3599.9, "1 h 0 min"), (3720, "1 h 2 min")]
)
def test_a_time_is_told_in_its_two_largest_units(seconds, text):
    assert duration(seconds) == text

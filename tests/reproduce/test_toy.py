"""A toy experiment in real processes: it is killed, resumed, and reported."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time

# Registers the toy, then is `switch-tf`.
PROGRAM = textwrap.dedent("""
    import sys
    from switch_tf.commands import main
    from switch_tf.reproduce import registry
    from switch_tf.reproduce.experiment import Arm, Experiment
    from switch_tf.reproduce.metrics import Metric, evaluated
    from switch_tf.reproduce.verdict import Claim, ahead

    BINDINGS = {
        "MIXTURE_OR_TASK_NAME": "toy_copy",
        "MIXTURE_OR_TASK_MODULE": "tests.toy_task",
        "TASK_FEATURE_LENGTHS": {"inputs": 8, "targets": 8},
        "BATCH_SIZE": 8,
        "VOCAB_SIZE": 384,
        "PACK": False,
        "TRAIN_STEPS": 30,
        "EVAL_PERIOD": 30,
        "CHECKPOINT_PERIOD": 10,
        "TransformerEncoderDecoder.d_model": 8,
        "TransformerEncoderDecoder.num_layers": 1,
    }
    RUN = ("models/t5_tiny.gin", "runs/pretrain.gin")
    BASE = Arm("base", RUN, BINDINGS, seeds=(0,))
    TUNED = Arm("tuned", RUN, BINDINGS, seeds=(0,), starts_from=BASE)
    NLP = Metric("NLP", evaluated("toy_copy", "nlp"), unit="nats")
    CLAIM = Claim("it learns", "it does not", ahead("base", "tuned", NLP))
    registry.EXPERIMENTS["toy"] = Experiment(
        "toy", "Figure 0", (BASE, TUNED), (NLP,), {}, (CLAIM,), folder="mini"
    )
    main.main(sys.argv[1:])
""")


def start(folder):
    command = [sys.executable, "-c", PROGRAM, "reproduce", "run", "toy"]
    command += [f"--output_dir={folder / 'runs'}", f"--results_dir={folder / 'results'}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_until(condition, process):
    end = time.monotonic() + 200
    while not condition():
        assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
        time.sleep(0.05)


def test_an_experiment_survives_a_kill_and_ends_with_a_report_of_every_run(tmp_path):
    base = tmp_path / "runs" / "base" / "pretrain_seed0"
    process = start(tmp_path)
    wait_until(lambda: list(base.glob("checkpoint_*/state.index")), process)
    # With its child, as when a machine goes down: nothing is left that could save.
    find = ["pgrep", "-P", str(process.pid)]
    children = subprocess.run(find, capture_output=True, text=True, check=True).stdout.split()
    for each in (process.pid, *map(int, children)):
        os.kill(each, signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "results").exists()

    process = start(tmp_path)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert re.search(r"^2 runs(, \d+ at a time)?, 0 of them done", output, re.MULTILINE)
    assert re.search(r"^resumes from step \d+ of ", (base / "log.txt").read_text(), re.MULTILINE)
    kept = sorted(p.name for p in (tmp_path / "results" / "runs").glob("*/*.json"))
    assert kept == ["finetune_seed0.json", "pretrain_seed0.json"]
    data = json.loads((tmp_path / "results" / "toy.json").read_text())
    assert len(data["measured"]["base"]["NLP"]) == 1
    # A verdict takes a second seed.
    assert data["claims"][0]["verdict"] == "not run yet"
    assert "| base | 1 of 1 |" in (tmp_path / "results" / "toy.md").read_text()

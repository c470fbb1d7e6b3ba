"""Kills runs at random moments, and holds what they become against runs that never stopped.

    .venv/bin/python -m tests.stress --kills=30 --seed=0 --folder=runs/stress

A run of one process, then two of two, is killed by SIGTERM and SIGKILL while it compiles, steps or
waits for its slow input, evaluates and saves, and is started again each time. Once it is at its
last step, its losses, evaluations, weights, slots and next batches must be those of its reference
bit for bit. Rerun the command to go on after an interruption of its own; `kills.jsonl` in the
folder has what was done, and `--result` names a file for the sum of it.
"""

import argparse
import collections
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from switch_tf.checkpoints import tensor_files
from switch_tf.checkpoints.model_dir import ModelDir, state_prefix
from switch_tf.hosts.cluster import Cluster
from switch_tf.hosts.local import free_addresses
from switch_tf.metrics.writer import read_metrics
from tests.data import cached_tasks

PHASES = ("saving", "stepping", "evaluating", "compiling")
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
STEPS = 24
FILES = ("models/switch_tiny.gin", "layouts/expert_data.gin", "runs/pretrain.gin")
COMMON = {
    "TRAIN_STEPS": STEPS,
    "EVAL_PERIOD": 8,
    "CHECKPOINT_PERIOD": 4,
    "LOG_PERIOD": 1,
    "DROPOUT_RATE": 0.1,
    "BATCH_SIZE": 8,
    "PACK": True,
    "NUM_EXPERTS": 4,
    "VOCAB_SIZE": 384,
    "TransformerEncoderDecoder.num_layers": 1,
    "TransformerEncoderDecoder.d_model": 16,
    "TransformerEncoderDecoder.d_ff": 32,
    "Evaluation.decode": False,
    "Hosts.timeout": 60.0,
}
# What the runs have that are killed, and their reference has not: they start themselves anew, too.
RESTARTED = {"Restarts.period": 9}
TWO_DEVICES = {"MESH_SHAPE": "batch:2", "GROUPS_MULTIPLE": 2}
# A slow mixture of a pipeline of tf.data.
SLOW = {
    "MIXTURE_OR_TASK_NAME": "stress_mixture",
    "MIXTURE_OR_TASK_MODULE": "tests.stress_task",
    "TASK_FEATURE_LENGTHS": {"inputs": 24, "targets": 24},
}
# Run, whose name begins with its number of hosts -> what it differs in.
RUNS = {
    "1": TWO_DEVICES | SLOW,
    "2": TWO_DEVICES | cached_tasks.OF_MIXTURE,
    "2_shares": TWO_DEVICES | SLOW | {"TaskData.shares": 2},
}
# Seconds: a moment in a phase is within so many of its beginning; and none takes longer than that.
WITHIN = {"compiling": 8.0, "stepping": 2.0, "evaluating": 3.0, "saving": 0.2}
_LONGEST = 400.0
_POLL = 0.002


def is_cached(name: str) -> bool:
    """Whether a run reads a cache."""
    return "USE_CACHED_TASKS" in RUNS[name]


def settings(name: str, folder: Path) -> dict:
    """Macros and parameters of a run."""
    cache = {"CACHE_DIR": str(folder / "cache")} if is_cached(name) else {}
    return COMMON | RUNS[name] | cache


class Launch:
    """The processes of a run, started once.

    Args:
      name: one of `RUNS`.
      folder: where caches are, and what the processes print is kept.
      model_dir: the run's.
    """

    def __init__(self, name: str, folder: Path, model_dir: Path):
        self.model_dir, hosts = model_dir, int(name[0])
        self._logs = [folder / f"host_{index}.log" for index in range(hosts)]
        flags = [f"--gin_file={file}" for file in FILES]
        given = settings(name, folder) | {"MODEL_DIR": str(model_dir)}
        given |= RESTARTED if model_dir.name == "run" else {}
        flags += [f"--gin.{name}={value!r}" for name, value in given.items()]
        command = [sys.executable, "-m", "switch_tf.commands.main", "train", *flags]
        addresses, self.processes = free_addresses(hosts), []
        for index, log in enumerate(self._logs):
            own = Cluster(addresses, index, "stress").variables() if hosts > 1 else {}
            with open(log, "wb") as output:
                self.processes.append(
                    subprocess.Popen(
                        command,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        env=os.environ | own | {"PYTHONUNBUFFERED": "1"},
                    )
                )
        self._end = time.monotonic() + _LONGEST

    def __enter__(self) -> "Launch":
        return self

    def __exit__(self, *_) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def wait(self) -> list[int]:
        """Their statuses."""
        return [p.wait(timeout=max(self._end - time.monotonic(), 1.0)) for p in self.processes]

    def said(self) -> str:
        """What each of them printed."""
        return "\n".join(log.read_text(errors="replace") for log in self._logs)

    def comes_to(self, condition: Callable[[], bool]) -> bool:
        """Waits for something; returns whether it came before a process ended."""
        while not condition():
            if any(process.poll() is not None for process in self.processes):
                return False
            assert time.monotonic() < self._end, self.said()
            time.sleep(_POLL)
        return True

    def records(self, kind: str) -> list[dict]:
        """The records of a kind that are logged so far; a line being written is left out."""
        path = self.model_dir / "metrics.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [r for r in map(json.loads, lines) if r["kind"] == kind]

    def is_in(self, phase: str, before: int) -> bool:
        """Whether the run is in a phase, or behind its beginning.

        Args:
          phase: one of `PHASES`.
          before: number of steps logged at the start.
        """
        if "trains on" not in self.said():
            # Its signals are not its own yet, and the log is that of the process before.
            return False
        if phase == "compiling":
            return "compiling the first step" in self.said()
        if phase == "saving":
            return any(self.model_dir.glob("checkpoint_*.partial"))
        steps = {record["step"] for record in self.records("train")}
        if phase == "evaluating":
            evaluated = {record["step"] for record in self.records("evaluation")}
            return any(step % COMMON["EVAL_PERIOD"] == 0 for step in steps - evaluated)
        return len(steps) > before


def logged(model_dir: Path, kind: str, figures: Sequence[str]) -> list[tuple]:
    """Step, task and figures of the records of a kind."""
    found = [r for r in read_metrics(str(model_dir)) if r["kind"] == kind]
    return [(r["step"], r.get("task"), *(r.get(name) for name in figures)) for r in found]


def next_batches(name: str, folder: Path, model_dir: Path, number: int = 2) -> list[dict]:
    """The batches that a run would read next."""
    import gin

    from switch_tf import config
    from switch_tf.checkpoints.position import Position
    from switch_tf.data import features
    from switch_tf.data.task_data import TaskData

    given = settings(name, folder) | {"MODEL_DIR": str(model_dir)}
    config.load(FILES, [f"{name}={value!r}" for name, value in given.items()])
    try:
        data = TaskData()
        features.prepare(data, COMMON["VOCAB_SIZE"])
        batches = iter(features.train_batches(data))
    finally:
        gin.clear_config()
    checkpoint = ModelDir(str(model_dir)).checkpoint(STEPS)
    Position(batches).read(checkpoint)
    found = (next(batches) for _ in range(number))
    return [{what: np.asarray(value) for what, value in batch.items()} for batch in found]


def differences(name: str, folder: Path, model_dir: Path, reference: Path) -> Iterator[str]:
    """What a run at its last step has that differs from its reference."""
    runs = model_dir, reference
    for kind, figures in (
        ("train", ["loss", "nlp"]),
        ("evaluation", ["nlp", "accuracy", "tokens"]),
    ):
        found, expected = (logged(run, kind, figures) for run in runs)
        if found != expected:
            yield f"records of '{kind}': {sorted({*found} ^ {*expected}, key=str)[:4]}"
    prefixes = [state_prefix(ModelDir(str(run)).checkpoint(STEPS)) for run in runs]
    found, expected = map(tensor_files.reader, prefixes)
    names = expected.get_variable_to_shape_map()
    if found.get_variable_to_shape_map() != names:
        yield "the variables of the last checkpoint"
        return
    for variable in names:
        mine, theirs = found.get_tensor(variable), expected.get_tensor(variable)
        if mine.tobytes() != theirs.tobytes():
            yield f"{variable} in the last checkpoint"
    ours, theirs = (next_batches(name, folder, run) for run in runs)
    for number, (batch, other) in enumerate(zip(ours, theirs, strict=True), 1):
        if any(not np.array_equal(batch[what], other[what]) for what in other):
            yield f"batch {number} after the last step"


class Stress:
    """The kills of a run; goes on where an earlier process stopped.

    Args:
      name: one of `RUNS`.
      folder: for runs, caches and `kills.jsonl`.
      seed: of the random moments.
    """

    def __init__(self, name: str, folder: Path, seed: int):
        self.name, self.hosts = name, int(name[0])
        self.folder, self.seed = folder / f"hosts_{name}", seed
        self.reference = self.folder / "reference"
        self._kills = self.folder / "kills.jsonl"
        self.folder.mkdir(parents=True, exist_ok=True)

    def done(self) -> list[dict]:
        """The kills so far."""
        lines = self._kills.read_text().splitlines() if self._kills.exists() else []
        return [json.loads(line) for line in lines]

    def prepare(self) -> None:
        """Makes the cache and the reference, unless they are there."""
        if is_cached(self.name) and not (self.folder / "cache").exists():
            partial = self.folder / "cache.partial"
            shutil.rmtree(partial, ignore_errors=True)
            cached_tasks.write_mixture(partial)
            partial.rename(self.folder / "cache")
        if not (self.reference / f"checkpoint_{STEPS}").exists():
            shutil.rmtree(self.reference, ignore_errors=True)
            with Launch(self.name, self.folder, self.reference) as launch:
                statuses = launch.wait()
                assert statuses == [0] * self.hosts, launch.said()

    def kill(self, number: int) -> dict:
        """Starts the run, and kills it at a random moment, unless it ends before; the record of it.

        Args:
          number: of the kill, from 0, which decides upon phase, signal and moment.
        """
        chance = random.Random(f"{self.seed} {self.name} {number}")
        phase, sent = PHASES[number % len(PHASES)], SIGNALS[(number + number // len(PHASES)) % 2]
        after = chance.uniform(0.0, WITHIN[phase])
        host = chance.randrange(self.hosts)
        run = self.folder / "run"
        with Launch(self.name, self.folder, run) as launch:
            before = len({record["step"] for record in launch.records("train")})
            launch.comes_to(lambda: launch.is_in(phase, before))
            time.sleep(after)
            process = launch.processes[host]
            was_over = process.poll() is not None
            process.send_signal(sent)
            killed = time.monotonic()
            statuses = launch.wait()
            expected = self._expected(sent, host)
            found = {
                "run": self.name,
                "phase": phase,
                "signal": sent.name,
                "host": host,
                "statuses": statuses,
                "step": max((r["step"] for r in launch.records("train")), default=0),
                "seconds_to_end": round(time.monotonic() - killed, 2),
                "was_over": was_over,
                "restarts": launch.said().count("the process starts anew"),
            }
            # A run that came to its last step is not interrupted.
            accepted = [expected, [0] * self.hosts]
            if sent == signal.SIGTERM and found["restarts"]:
                # While it starts anew: the others wait for it in vain.
                late = [os.EX_TEMPFAIL] * self.hosts
                late[host] = 128 + sent
                accepted.append(late)
            assert statuses in accepted, (found, launch.said())
            assert "Traceback" not in launch.said(), launch.said()
        return found

    def _expected(self, sent: signal.Signals, host: int) -> list[int]:
        if sent == signal.SIGTERM:
            return [128 + sent] * self.hosts
        return [-sent if index == host else os.EX_TEMPFAIL for index in range(self.hosts)]

    def finish(self) -> dict:
        """Lets the run come to its last step, compares it with the reference, and removes it."""
        run = self.folder / "run"
        with Launch(self.name, self.folder, run) as launch:
            statuses = launch.wait()
            assert statuses == [0] * self.hosts, launch.said()
            restarts = launch.said().count("the process starts anew")
        found = list(differences(self.name, self.folder, run, self.reference))
        assert not found, found
        shutil.rmtree(run)
        return {"run": self.name, "compared": True, "restarts": restarts}

    def go_on(self, kills: int) -> None:
        """Kills until there are so many in all, and compares each run that comes to its end."""
        self.prepare()
        while True:
            records = self.done()
            killed = [r for r in records if "signal" in r and not r["was_over"]]
            tried = len([r for r in records if "signal" in r])
            is_over = bool(records) and records[-1].get("was_over", False)
            if is_over or len(killed) >= kills:
                if records and records[-1].get("compared"):
                    return
                record = self.finish()
            else:
                record = self.kill(tried)
            print(json.dumps(record), flush=True)
            with open(self._kills, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")


def summary(records: Sequence[dict], seed: int) -> dict:
    """The sum of all kills, with what they were made on."""
    from switch_tf.checkpoints.run_facts import versions
    from switch_tf.reproduce.result import environment

    killed = [r for r in records if "signal" in r and not r["was_over"]]
    counts = collections.Counter(f"{r['run']} {r['phase']} {r['signal']}" for r in killed)
    return {
        "environment": environment() | versions(),
        "seed": seed,
        "steps_of_a_run": STEPS,
        "kills": len(killed),
        "kills_by_run_phase_signal": dict(sorted(counts.items())),
        "restarts": sum(r["restarts"] for r in records),
        "runs_equal_bit_for_bit": len([r for r in records if "compared" in r]),
        "longest_seconds_to_end": max((r["seconds_to_end"] for r in killed), default=0.0),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30, help="of each run")
    parser.add_argument("--runs", default=",".join(RUNS), help="by their names")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("runs/stress"))
    parser.add_argument("--result", type=Path, help="JSON file for the sum")
    given = parser.parse_args(argv)
    every = []
    for name in given.runs.split(","):
        stress = Stress(name, given.folder.absolute(), given.seed)
        stress.go_on(given.kills)
        every += stress.done()
    found = json.dumps(summary(every, given.seed), indent=2)
    print(found)
    if given.result:
        given.result.write_text(found + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

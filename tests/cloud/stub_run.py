"""A `switch-tf` on a worker of the stub: it trains ten steps, and resumes as the real one does.

It saves every second step, under another name until the checkpoint is whole, and refuses a
MODEL_DIR that another machine has in use. `scenario.json` says what happens at the next launches:
for each, a list of [worker, step, what], with what a status to end with, `slow`, `hang`, or
`preempt`: the slice is taken back while the chief saves.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

STUB = Path(os.environ["STUB_FOLDER"])
WORKER = int(os.environ["STUB_WORKER"])
HOST = os.environ["STUB_HOST"]
WORKERS = int(os.environ["STUB_WORKERS"])
STEPS = 10


def note(name, text):
    with open(STUB / name, "a") as file:
        print(text, file=file)


def events():
    """What happens to this worker at this launch: step -> what."""
    path = STUB / f"launches_{WORKER}"
    launch = int(path.read_text()) if path.exists() else 0
    path.write_text(str(launch + 1))
    scenario = STUB / "scenario.json"
    launches = json.loads(scenario.read_text()) if scenario.exists() else []
    found = launches[launch] if launch < len(launches) else []
    return {step: what for worker, step, what in found if worker == WORKER}


def alive(worker):
    """The process of a worker; None if it does not run."""
    try:
        number = int((STUB / f"process_{worker}").read_text())
        os.kill(number, 0)
    except (OSError, ValueError):
        return None
    return number


def meet():
    """Goes on once all workers have come, and all know it."""
    (STUB / f"process_{WORKER}.new").write_text(str(os.getpid()))
    os.replace(STUB / f"process_{WORKER}.new", STUB / f"process_{WORKER}")
    seen = set()
    # A process that was killed may seem to live for a while, so that a worker can see several sets.
    while not any(len(list(come.iterdir())) == WORKERS for come in seen):
        numbers = [alive(worker) for worker in range(WORKERS)]
        if None not in numbers:
            come = STUB / "met" / "_".join(map(str, numbers))
            come.mkdir(parents=True, exist_ok=True)
            (come / str(WORKER)).touch()
            seen.add(come)
        time.sleep(0.01)


def end(status):
    # The others notice it.
    note("ended.txt", f"{WORKER} {status}")
    print(f"switch-tf: ends with {status}", flush=True)
    sys.exit(status)


def train(model_dir):
    model_dir.mkdir(parents=True, exist_ok=True)
    lock, happening = model_dir / "in_use", events()
    is_chief = os.environ.get("DTENSOR_CLIENT_ID", "0") == "0"
    if is_chief:
        if lock.exists() and json.loads(lock.read_text())["host"] != HOST:
            print("switch-tf: error: in use", flush=True)
            sys.exit(2)
        lock.write_text(json.dumps({"host": HOST, "process": os.getpid()}))
    signal.signal(signal.SIGTERM, lambda *_: end_whole(lock, is_chief, 143))
    steps = [int(p.name.split("_")[1]) for p in model_dir.glob("checkpoint_*") if "." not in p.name]
    first = max(steps, default=0)
    if is_chief:
        note("resumed.txt", first)
    meet()
    for step in range(first + 1, STEPS + 1):
        time.sleep(0.02)
        print(f"step {step}", flush=True)
        what = happening.get(step)
        if what == "slow":
            time.sleep(3)
        if what == "hang":
            hang()
        if isinstance(what, int):
            end_whole(lock, is_chief, what)
        if is_chief and step % 2 == 0:
            begun = model_dir / f"checkpoint_{step}.begun"
            begun.mkdir(exist_ok=True)
            if what == "preempt":
                (STUB / "preempted").touch()
                time.sleep(600)
            begun.rename(model_dir / f"checkpoint_{step}")
    end_whole(lock, is_chief, 0)


def hang():
    """As what waits for ever, in a stage that goes on telling how long it has taken."""
    for count in range(6000):
        time.sleep(0.1)
        print(f"compiling the step: {count} s so far", flush=True)


def end_whole(lock, is_chief, status):
    if is_chief and lock.exists():
        lock.unlink()
    end(status)


def main():
    # Whatever becomes of the test.
    signal.alarm(60)
    told = {"argv": sys.argv[1:], "jobs": os.environ.get("DTENSOR_JOBS")}
    told["client"] = os.environ.get("DTENSOR_CLIENT_ID")
    note(f"argv_{WORKER}.jsonl", json.dumps(told))
    found = [a.partition("=")[2] for a in sys.argv if a.startswith("--gin.MODEL_DIR=")]
    if found:
        train(STUB / "gs" / found[-1].strip("'\"").removeprefix("gs://"))


main()

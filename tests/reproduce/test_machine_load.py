import os
import subprocess
import sys

from switch_tf.reproduce import machine_load
from switch_tf.reproduce.machine_load import Load, LoadMeter

# A core that this process may use, and one that it may not.
OWN = min(os.sched_getaffinity(0))
OTHER = max(os.sched_getaffinity(0)) + 1
BUSY = "import time; end = time.process_time() + 0.5\nwhile time.process_time() < end: pass"


def tell(stat, ticks, of_other="0 0 0 0 0 0 0 0 0 0"):
    """Writes the ticks of the two cores as Linux does, below a line of their sum."""
    stat.write_text(f"cpu 1 1 1 1 1 1 1 1 1 1\ncpu{OWN} {ticks}\ncpu{OTHER} {of_other}\n")


def test_what_this_process_and_its_children_take_is_not_of_others(monkeypatch, tmp_path):
    # The machine as if nothing else ran: its busy time is what is taken here.
    stat = tmp_path / "stat"
    monkeypatch.setattr(machine_load, "_STAT", stat)
    tell(stat, "0 0 0 0 0 0 0 0 0 0")
    meter = LoadMeter()
    subprocess.run([sys.executable, "-c", BUSY], check=True)
    tell(stat, "50 0 0 0 0 0 0 0 0 0")
    assert meter.read().others == 0.0


def test_a_child_that_still_runs_is_not_of_others(monkeypatch, tmp_path):
    stat = tmp_path / "stat"
    monkeypatch.setattr(machine_load, "_STAT", stat)
    tell(stat, "0 0 0 0 0 0 0 0 0 0")
    code = f"{BUSY}\nprint('done', flush=True)\ninput()"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    alive = [child.pid]
    meter = LoadMeter(lambda: alive)
    child.stdout.readline()
    tell(stat, "50 0 0 0 0 0 0 0 0 0")
    assert meter.read().others == 0.0
    # Once it has ended it counts as before, not twice.
    child.communicate("\n")
    alive.clear()
    tell(stat, "150 0 0 0 0 0 0 0 0 0")
    assert meter.read().others > 0.0


def test_what_others_take_is_measured_in_cores(monkeypatch, tmp_path):
    stat = tmp_path / "stat"
    monkeypatch.setattr(machine_load, "_STAT", stat)
    tell(stat, "0 0 0 0 0 0 0 0 0 0")
    monkeypatch.setattr(machine_load.time, "monotonic", iter([0.0, 10.0]).__next__)
    meter = LoadMeter()
    # Ten seconds of user, system, interrupts and other machines; idle and waiting do not count.
    tell(stat, "400 100 300 99999 99999 50 50 100 0 0")
    assert 0.9 < meter.read().others <= 1.0


def test_what_runs_on_cores_that_this_process_may_not_use_does_not_count(monkeypatch, tmp_path):
    stat = tmp_path / "stat"
    monkeypatch.setattr(machine_load, "_STAT", stat)
    tell(stat, "0 0 0 0 0 0 0 0 0 0")
    meter = LoadMeter()
    tell(stat, "0 0 0 0 0 0 0 0 0 0", of_other="99999 0 0 0 0 0 0 0 0 0")
    assert meter.read() == Load(0.0, len(os.sched_getaffinity(0)))


def test_a_load_is_told_where_it_matters():
    assert not Load(0.05, 2).is_notable()
    assert Load(0.5, 2).is_notable()
    assert str(Load(0.5, 2)) == "other processes took 0.5 of 2 cores"

"""How much of the machine other processes took while something was measured."""

import dataclasses
import os
import resource
import time
from collections.abc import Callable, Collection
from pathlib import Path

_STAT = Path("/proc/stat")
# Share of the machine from which others slow what is measured by more than it varies anyway.
_NOTABLE = 0.05


@dataclasses.dataclass(frozen=True)
class Load:
    """The load of other processes.

    Attributes:
      others: mean number of cores taken by other processes, and by other machines on the same
        hardware.
      cores: cores that this process may use.
    """

    others: float
    cores: int

    def __str__(self) -> str:
        return f"other processes took {self.others:.1f} of {self.cores} cores"

    @property
    def share(self) -> float:
        """The share of the machine that others took."""
        return self.others / self.cores

    def is_notable(self) -> bool:
        """Whether it lowered tokens/s by more than they vary from run to run."""
        return self.share > _NOTABLE


class LoadMeter:
    """Measures the load of other processes from its creation on.

    This process is not counted, nor are its children; nor is what others do on cores that this one
    is kept from, such as by `taskset` or a scheduler.

    Args:
      children: returns the process numbers of its children that have not been waited for.
    """

    def __init__(self, children: Callable[[], Collection[int]] = tuple):
        self._children = children
        self._before = self._now()

    def read(self) -> Load:
        """The mean load so far."""
        (wall, busy, own), (wall_0, busy_0, own_0) = self._now(), self._before
        others = ((busy - busy_0) - (own - own_0)) / max(wall - wall_0, 1e-9)
        cores = len(os.sched_getaffinity(0))
        # Ticks of the machine's counters are coarse against a short time.
        return Load(min(max(others, 0.0), float(cores)), cores)

    def _now(self) -> tuple[float, float, float]:
        """Seconds of the clock, of its cores at work, and of this process and its children."""
        cores = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        ticks = 0
        for line in _STAT.read_text(encoding="utf-8").splitlines():
            name, *fields = line.split()
            if name in cores:
                user, nice, system, _, _, *interrupts = map(int, fields[:8])
                ticks += user + nice + system + sum(interrupts)
        busy = ticks / os.sysconf("SC_CLK_TCK")
        used = (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        own = sum(u.ru_utime + u.ru_stime for u in used)
        return time.monotonic(), busy, own + sum(map(_seconds_of, self._children()))


def _seconds_of(process: int) -> float:
    """Seconds of all cores that a process has used; 0 if it is gone."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    # Behind the command's name, which may hold blanks and brackets.
    fields = text.rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")

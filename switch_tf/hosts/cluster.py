"""Which processes make up a run, and which of them this one is; needs no TensorFlow.

A *host* is a process of `switch-tf` that has a part of the mesh's devices, as a rule one a machine.
All are started with the same command. Who is who comes, in this order, from the flags `--hosts` and
`--host`; from DTensor's variables DTENSOR_JOBS and DTENSOR_CLIENT_ID; from those of a TPU pod,
TPU_WORKER_HOSTNAMES and TPU_WORKER_ID; and from SLURM's, of a step that `srun` started.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from switch_tf.errors import UserError

# Where a source names hosts without ports. Not 8476, which libtpu's own hosts meet at.
_TPU_PORT = 19_011
# SLURM's jobs on one machine take different ports, above those that Linux gives out by itself.
_SLURM_PORTS = range(61_440, 65_000)

FLAGS: Mapping[str, Mapping[str, Any]] = {
    "hosts": {
        "metavar": "NAME:PORT,...",
        "help": "the hosts of the run in the same order on each of them, the chief first; by "
        "default from DTENSOR_JOBS, TPU_WORKER_HOSTNAMES or SLURM, or this process alone",
    },
    "host": {"type": int, "metavar": "N", "help": "which of --hosts this one is, from 0"},
}


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The hosts of a run, seen from one of them.

    Attributes:
      addresses: NAME:PORT of each host, in the order of their devices in the mesh.
      index: which of them this process is; host 0 is the chief.
      source: what says so, for errors.
    """

    addresses: tuple[str, ...]
    index: int
    source: str

    @classmethod
    def find(
        cls, environment: Mapping[str, str], hosts: str | None = None, host: int | None = None
    ) -> Cluster | None:
        """The hosts of the run; None if this process is its only one.

        Args:
          environment: variables of the environment.
          hosts, host: values of the flags.

        Raises:
          UserError: what says who is who is incomplete or contradicts itself.
        """
        if hosts is not None or host is not None:
            if hosts is None or host is None:
                given, missing = ("--host", "--hosts") if hosts is None else ("--hosts", "--host")
                raise UserError(f"{given} is given without {missing}: give both, or neither")
            found = cls(_listed(hosts, "--hosts"), host, "--hosts")
        else:
            sources = (_of_dtensor, _of_tpu, _of_slurm)
            found = next(filter(None, (source(environment) for source in sources)), None)
        if found is None:
            return None
        found._check()
        return found if len(found.addresses) > 1 else None

    def _check(self) -> None:
        for address in self.addresses:
            if not re.fullmatch(r"[^\s:]+:[0-9]{1,5}", address):
                raise UserError(f"{self.source} names '{address}', which is not NAME:PORT")
            if self.addresses.count(address) > 1:
                raise UserError(f"{self.source} names {address} twice: give each host its own port")
        if not 0 <= self.index < len(self.addresses):
            last = len(self.addresses) - 1
            raise UserError(
                f"{self.source} names {last + 1} hosts, 0 to {last}, but this one is said to be "
                f"host {self.index}"
            )

    def name(self, index: int) -> str:
        """A host, for messages."""
        return f"host {index} ({self.addresses[index]})"

    def variables(self) -> dict[str, str]:
        """The variables of the environment that tell DTensor."""
        return {
            "DTENSOR_JOBS": ",".join(self.addresses),
            "DTENSOR_CLIENT_ID": str(self.index),
            "DTENSOR_JOB_NAME": "worker",
        }


def _listed(text: str, source: str) -> tuple[str, ...]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise UserError(f"{source}='{text}' has an empty name: give NAME:PORT,NAME:PORT,...")
    return tuple(names)


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "0")
    if not text.isdecimal():
        raise UserError(f"{name}='{text}' is not a whole number")
    return int(text)


def _of_dtensor(environment: Mapping[str, str]) -> Cluster | None:
    if not environment.get("DTENSOR_JOBS"):
        return None
    addresses = _listed(environment["DTENSOR_JOBS"], "DTENSOR_JOBS")
    return Cluster(addresses, _number(environment, "DTENSOR_CLIENT_ID"), "DTENSOR_JOBS")


def _of_tpu(environment: Mapping[str, str]) -> Cluster | None:
    if not environment.get("TPU_WORKER_HOSTNAMES"):
        return None
    names = _listed(environment["TPU_WORKER_HOSTNAMES"], "TPU_WORKER_HOSTNAMES")
    addresses = tuple(f"{name}:{_TPU_PORT}" for name in names)
    return Cluster(addresses, _number(environment, "TPU_WORKER_ID"), "TPU_WORKER_HOSTNAMES")


def _of_slurm(environment: Mapping[str, str]) -> Cluster | None:
    """Of a step of several tasks; a batch script by itself, outside `srun`, is one process."""
    if _number(environment, "SLURM_STEP_NUM_TASKS") < 2:
        return None
    layout = environment.get("SLURM_DISTRIBUTION", "block")
    counts = list(_task_counts(environment.get("SLURM_STEP_TASKS_PER_NODE", "1")))
    if max(counts) > 1 and not layout.startswith("block"):
        raise UserError(
            f"SLURM distributes the tasks over the nodes by '{layout}': run srun with "
            "--distribution=block"
        )
    nodes = list(node_names(environment.get("SLURM_STEP_NODELIST", "")))
    if len(counts) != len(nodes):
        raise UserError(
            f"SLURM_STEP_NODELIST names {len(nodes)} nodes, but SLURM_STEP_TASKS_PER_NODE has "
            f"{len(counts)}: pass --hosts and --host"
        )
    first = _SLURM_PORTS[_number(environment, "SLURM_JOB_ID") % len(_SLURM_PORTS)]
    addresses = tuple(
        f"{node}:{first + task}"
        for node, count in zip(nodes, counts, strict=True)
        for task in range(count)
    )
    return Cluster(addresses, _number(environment, "SLURM_PROCID"), "SLURM_STEP_NODELIST")


def _task_counts(text: str) -> Iterator[int]:
    """How many tasks each node has, of SLURM's text such as `2(x3),1`."""
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if not match:
            raise UserError(f"SLURM_STEP_TASKS_PER_NODE='{text}' cannot be read: pass --hosts")
        yield from [int(match[1])] * int(match[2] or 1)


def node_names(text: str) -> Iterator[str]:
    """The names in a list of SLURM's.

    >>> list(node_names("tpu[08-10,12],other"))
    ['tpu08', 'tpu09', 'tpu10', 'tpu12', 'other']
    """
    for name in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text):
        yield from _expanded(name.strip())


def _expanded(name: str) -> Iterator[str]:
    before, bracket, rest = name.partition("[")
    if not bracket:
        yield name
        return
    inside, _, after = rest.partition("]")
    for part in inside.split(","):
        first, dash, last = part.partition("-")
        numbers = range(int(first), int(last) + 1) if dash else [int(first)]
        for number in numbers:
            for end in _expanded(after):
                yield f"{before}{number:0{len(first)}}{end}"


def settle(hosts: str | None = None, host: int | None = None) -> Cluster | None:
    """Finds the hosts of the run, and tells them to DTensor through the environment.

    To be called before TensorFlow starts. Afterwards `runtime.is_chief` is right.

    Args:
      hosts, host: values of the flags.

    Raises:
      UserError: see `Cluster.find`.
    """
    cluster = Cluster.find(os.environ, hosts, host)
    if cluster is not None:
        os.environ.update(cluster.variables())
    return cluster

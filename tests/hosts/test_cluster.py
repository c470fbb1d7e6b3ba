import os

import pytest

from switch_tf import runtime
from switch_tf.errors import UserError
from switch_tf.hosts.cluster import Cluster, node_names, settle

DTENSOR = {"DTENSOR_JOBS": "a:1,b:2", "DTENSOR_CLIENT_ID": "1"}
TPU = {"TPU_WORKER_HOSTNAMES": "t0,t1,t2", "TPU_WORKER_ID": "2"}
SLURM = {
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_STEP_TASKS_PER_NODE": "2,1",
    "SLURM_PROCID": "2",
    "SLURM_JOB_ID": "7",
}


@pytest.mark.parametrize(
    "environment, addresses, index",
    [
        (DTENSOR, ("a:1", "b:2"), 1),
        (TPU, ("t0:19011", "t1:19011", "t2:19011"), 2),
        (SLURM, ("n1:61447", "n1:61448", "n2:61447"), 2),
        (DTENSOR | TPU | SLURM, ("a:1", "b:2"), 1),
        (TPU | SLURM, ("t0:19011", "t1:19011", "t2:19011"), 2),
    ],
)
def test_the_environment_says_who_is_who(environment, addresses, index):
    cluster = Cluster.find(environment)
    assert (cluster.addresses, cluster.index) == (addresses, index)


def test_flags_come_before_the_environment():
    cluster = Cluster.find(DTENSOR, "x:1, y:2", 0)
    assert cluster.addresses == ("x:1", "y:2") and cluster.index == 0
    assert cluster.name(1) == "host 1 (y:2)"


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"DTENSOR_JOBS": ""},
        {"DTENSOR_JOBS": "a:1"},
        {"TPU_WORKER_HOSTNAMES": "t0", "TPU_WORKER_ID": "0"},
        # A batch script outside of srun has the job's variables, but is alone.
        {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_NODELIST": "n[1-4]"},
        {"SLURM_STEP_NUM_TASKS": "1"},
    ],
)
def test_a_process_by_itself_is_no_cluster(environment):
    assert Cluster.find(environment) is None


@pytest.mark.parametrize(
    "environment, flags, message",
    [
        ({}, ("a:1,b:2", None), "^--hosts is given without --host: give both, or neither$"),
        ({}, (None, 1), "^--host is given without --hosts"),
        ({}, ("a:1,b", 0), "^--hosts names 'b', which is not NAME:PORT$"),
        ({}, ("a:1,,b:1", 0), "^--hosts='a:1,,b:1' has an empty name"),
        ({}, ("a:1,a:1", 0), "^--hosts names a:1 twice: give each host its own port$"),
        ({}, ("a:1,b:1", 2), "^--hosts names 2 hosts, 0 to 1, but this one is said to be host 2$"),
        (DTENSOR | {"DTENSOR_CLIENT_ID": "one"}, (), "^DTENSOR_CLIENT_ID='one' is not a whole"),
        (SLURM | {"SLURM_STEP_NODELIST": "n[1-3]"}, (), "names 3 nodes, but .*_PER_NODE has 2"),
        (SLURM | {"SLURM_DISTRIBUTION": "cyclic"}, (), "run srun with --distribution=block$"),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "2(x"}, (), r"PER_NODE='2\(x' cannot be read"),
    ],
)
def test_what_is_said_wrongly_is_one_line(environment, flags, message):
    with pytest.raises(UserError, match=message):
        Cluster.find(environment, *flags)


@pytest.mark.parametrize(
    "text, names",
    [
        ("one", ["one"]),
        ("n[1-3]", ["n1", "n2", "n3"]),
        ("n[08-10,12],other", ["n08", "n09", "n10", "n12", "other"]),
        ("r[1-2]n[1,3]", ["r1n1", "r1n3", "r2n1", "r2n3"]),
        ("a,b[1]-x", ["a", "b1-x"]),
    ],
)
def test_names_of_slurms_nodes(text, names):
    assert list(node_names(text)) == names


def test_dtensor_is_told_through_its_variables(monkeypatch):
    for name in ("DTENSOR_JOBS", "DTENSOR_CLIENT_ID", "DTENSOR_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)
    assert settle() is None and runtime.is_chief()
    monkeypatch.setattr(os, "environ", dict(os.environ))
    settle("a:1,b:2", 1)
    assert os.environ["DTENSOR_JOBS"] == "a:1,b:2" and not runtime.is_chief()

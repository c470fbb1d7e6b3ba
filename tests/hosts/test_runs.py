"""Runs of several hosts beside those of one: the same losses, checkpoints, stops."""

import functools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from switch_tf.checkpoints import tensor_files
from switch_tf.checkpoints.model_dir import ModelDir, data_prefix, state_prefix
from switch_tf.hosts.cluster import Cluster
from switch_tf.hosts.local import free_addresses
from switch_tf.metrics.writer import read_metrics
from tests.data import cached_tasks
from tests.training.test_train import FILES, RUN, SMALL, STEPS, losses

ROOT = Path(__file__).parents[2]
SETTINGS = SMALL | RUN | {"BATCH_SIZE": 8, "GROUPS_MULTIPLE": 4, "MESH_SHAPE": "batch:4"}


def command(folder, **settings):
    flags = [f"--gin_file={file}" for file in (*FILES, "runs/pretrain.gin")]
    given = SETTINGS | {"MODEL_DIR": str(folder)} | settings
    flags += [f"--gin.{name}={value!r}" for name, value in given.items()]
    return [sys.executable, "-m", "switch_tf.commands.main", "train", *flags]


class Hosts:
    """The processes of a run, with their output."""

    def __init__(self, number, logs, arguments):
        addresses = free_addresses(number)
        self.logs = [logs / f"host_{index}.log" for index in range(number)]
        self.processes = []
        for index, log in enumerate(self.logs):
            with open(log, "wb") as output:
                own = Cluster(addresses, index, "a test").variables() if number > 1 else {}
                self.processes.append(
                    subprocess.Popen(
                        arguments, env=os.environ | own, stdout=output, stderr=subprocess.STDOUT
                    )
                )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()

    def wait(self):
        """Their statuses."""
        return [process.wait(timeout=300) for process in self.processes]

    def said(self):
        return [log.read_text() for log in self.logs]


def until(condition, hosts):
    """Waits for something that a run does."""
    end = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < end and None in [p.poll() for p in hosts.processes], hosts.said()
        time.sleep(0.1)


def alone(folder, logs):
    """Trains to the last step in one process, which has all devices."""
    with Hosts(1, logs, command(folder)) as process:
        assert process.wait() == [0], process.said()


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The MODEL_DIR of a run of one process with four devices."""
    folder = tmp_path_factory.mktemp("one")
    alone(folder, tmp_path_factory.mktemp("logs"))
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The MODEL_DIR of three steps of two hosts, by README's command, and what each host said."""
    folder, place = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("place")
    shown = (ROOT / "README.md").read_text().replace("\\\n", " ")
    (line,) = re.findall(r"^scripts/local_cluster.sh (\d .*)$", shown, re.MULTILINE)
    # The learning rate does not depend on how long a run is.
    flags = command(folder, TRAIN_STEPS=3)[4:]
    own = [flag for flag in flags if flag.startswith("--gin.")]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(
        [sys.executable, "-m", "switch_tf.hosts.local", *shlex.split(line), *own],
        env=os.environ | {"PATH": path, "PYTHONPATH": f"{ROOT}:{os.environ['PYTHONPATH']}"},
        cwd=place,
        check=True,
        timeout=300,
    )
    logs = [place / f"runs/local_cluster/host_{index}.log" for index in (0, 1)]
    return folder, [log.read_text() for log in logs]


def test_two_hosts_have_the_losses_of_one(one, two):
    found, expected = losses(two[0]), losses(one)
    assert list(found) == [1, 2, 3]
    np.testing.assert_allclose(
        [found[step] for step in found], [expected[step] for step in found], rtol=1e-5
    )


def test_the_chief_alone_speaks_and_logs(two):
    folder, (chief, other) = two
    assert "done: step 3 of TRAIN_STEPS=3" in chief
    assert "each host makes all rows (of cached tasks, its own)" in chief
    assert other == ""
    kinds = [record["kind"] for record in read_metrics(str(folder))]
    assert kinds.count("train") == 3 and kinds.count("evaluation") == 1


def test_their_evaluation_is_that_of_one(one, two):
    def nlp(folder):
        (record,) = [
            r for r in read_metrics(str(folder)) if r["kind"] == "evaluation" and r["step"] == 3
        ]
        return record["nlp"], record["tokens"]

    assert nlp(two[0]) == pytest.approx(nlp(one), rel=1e-5)


def test_each_host_wrote_its_part_of_a_checkpoint_that_reads_as_one(one, two):
    parts, whole = (ModelDir(str(folder)).checkpoint(3) for folder in (two[0], one))
    files = [name for name in os.listdir(parts) if name.startswith("state")]
    assert len([name for name in files if ".data-" in name]) == 2
    assert "state.index" in files and len(files) == 3
    found, expected = (tensor_files.reader(state_prefix(path)) for path in (parts, whole))
    shapes = expected.get_variable_to_shape_map()
    assert found.get_variable_to_shape_map() == shapes
    for name in shapes:
        np.testing.assert_allclose(
            found.get_tensor(name), expected.get_tensor(name), rtol=1e-3, atol=1e-5, err_msg=name
        )


def test_one_process_goes_on_with_what_two_hosts_saved(one, two, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(two[0], folder)
    alone(folder, tmp_path)
    found, expected = losses(folder), losses(one)
    assert list(found) == list(expected) == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-4)


@pytest.fixture
def cached(tmp_path):
    """Settings of a packed mixture that is read from a cache."""
    cached_tasks.forget()
    for name in ("cached_pairs", "cached_few"):
        cached_tasks.write(tmp_path / "cache", name, ("train", "validation"))
    return {
        "MIXTURE_OR_TASK_NAME": "cached_mixture",
        "MIXTURE_OR_TASK_MODULE": "tests.data.cached_tasks",
        "TASK_FEATURE_LENGTHS": {"inputs": 32, "targets": 64},
        "USE_CACHED_TASKS": True,
        "CACHE_DIR": str(tmp_path / "cache"),
        "PACK": True,
        "EVAL_PERIOD": 10**6,
    }


def test_hosts_read_their_rows_of_a_cache_and_any_number_of_them_goes_on(cached, tmp_path):
    """Two hosts make two steps, one process goes on, and then two again."""
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    for number, steps in ((2, 2), (1, 4), (2, STEPS)):
        with Hosts(number, tmp_path, command(parts, **cached, TRAIN_STEPS=steps)) as hosts:
            assert hosts.wait() == [0] * number, hosts.said()
            said = hosts.said()[0]
            assert ("; this host makes 4 of 8 rows" in said) == (number > 1)
    with Hosts(1, tmp_path, command(whole, **cached)) as process:
        assert process.wait() == [0], process.said()
    found, expected = losses(parts), losses(whole)
    assert list(found) == list(expected) == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-4)
    # The chief's file holds what both hosts knew.
    assert position(parts) == position(whole)


def position(folder):
    """What the last checkpoint says of the position in a cache."""
    reader = tensor_files.reader(data_prefix(ModelDir(str(folder)).checkpoint(STEPS)))
    (name,) = [name for name in reader.get_variable_to_shape_map() if "py_state" in name]
    return reader.get_tensor(name)


def test_a_signal_to_one_host_stops_all_and_they_save_the_same_step(one, tmp_path):
    """Beginning with what one process saved."""
    folder = tmp_path / "run"
    shutil.copytree(one, folder)
    steps = functools.partial(losses, folder)
    with Hosts(2, tmp_path, command(folder, TRAIN_STEPS=10**6, EVAL_PERIOD=10**6)) as hosts:
        until(lambda: len(steps()) > 7, hosts)
        hosts.processes[1].send_signal(signal.SIGTERM)
        assert hosts.wait() == [143, 143], hosts.said()
        saved = int(re.search(r"interrupted by SIGTERM: saved step (\d+) in", hosts.said()[0])[1])
    assert ModelDir(str(folder)).steps()[-1] == saved == max(steps())


def test_when_a_host_is_killed_the_other_ends_and_names_it(tmp_path):
    folder = tmp_path / "run"
    endless = {"TRAIN_STEPS": 10**6, "EVAL_PERIOD": 10**6, "CHECKPOINT_PERIOD": 10**6}
    with Hosts(2, tmp_path, command(folder, **endless)) as hosts:
        until(lambda: (folder / "metrics.jsonl").exists() and len(losses(folder)) > 2, hosts)
        hosts.processes[1].kill()
        assert hosts.wait() == [75, -9], hosts.said()
        line = hosts.said()[0].splitlines()[-1]
    assert re.fullmatch(
        r"switch-tf: error: host 1 \(localhost:\d+\) has ended or does not answer \(.*\): see its "
        "output; rerun the command on all hosts to resume",
        line,
    )

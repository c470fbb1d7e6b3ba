"""Runs of several hosts beside those of one: the same losses, checkpoints, stops."""

import functools
import json
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


# Of a task that is not cached, each host makes its half.
SHARED = {"TaskData.shares": 2}
ENDLESS = {"TRAIN_STEPS": 10**6, "EVAL_PERIOD": 10**6}


def command(folder, layout="expert_data", **settings):
    files = FILES[0], f"layouts/{layout}.gin", "runs/pretrain.gin"
    flags = [f"--gin_file={file}" for file in files]
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
    with Hosts(1, logs, command(folder, **SHARED)) as process:
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
    flags = command(folder, TRAIN_STEPS=3, **SHARED)[4:]
    own = [flag for flag in flags if flag.startswith("--gin.")]
    subprocess.run(
        [str(ROOT / "scripts/local_cluster.sh"), *shlex.split(line), *own],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{os.environ['PYTHONPATH']}"},
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
    assert "in 2 shares; this host makes 4 of 8 rows" in chief
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
    names = os.listdir(parts)
    assert len([name for name in names if re.match(r"data\.share.*index", name)]) == 2
    files = [name for name in names if name.startswith("state")]
    assert len([name for name in files if ".data-" in name]) == 2
    assert "state.index" in files and len(files) == 3
    # Nothing is written, or held for it, twice.
    written = [os.path.getsize(f"{parts}/{name}") for name in files if ".data-" in name]
    assert sum(written) == os.path.getsize(f"{whole}/state.data-00000-of-00001")
    assert max(written) < sum(written)
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


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The MODEL_DIR of two hosts in the data layout, one of which was killed; what each said."""
    folder, logs = tmp_path_factory.mktemp("killed"), tmp_path_factory.mktemp("logs")
    with Hosts(2, logs, command(folder, layout="data", **ENDLESS)) as hosts:
        until(lambda: len(losses(folder)) > 4 and ModelDir(str(folder)).steps() == [3], hosts)
        hosts.processes[1].kill()
        assert hosts.wait() == [75, -9], hosts.said()
        return folder, hosts.said()


def test_when_a_host_is_killed_the_other_ends_and_names_it(killed):
    assert re.fullmatch(
        r"switch-tf: error: host 1 \(localhost:\d+\) has ended or does not answer \(.*\): see its "
        "output; rerun the command on all hosts to resume",
        killed[1][0].splitlines()[-1],
    )


def test_another_layout_of_two_hosts_has_the_losses_of_one(killed, tmp_path):
    with Hosts(1, tmp_path, command(tmp_path / "run", layout="data", TRAIN_STEPS=3)) as process:
        assert process.wait() == [0], process.said()
    found, expected = losses(killed[0]), losses(tmp_path / "run")
    assert list(expected) == [1, 2, 3]
    np.testing.assert_allclose(
        [found[step] for step in expected], list(expected.values()), rtol=1e-5
    )


def test_a_signal_to_one_host_stops_all_and_they_save_the_same_step(killed, tmp_path):
    """Resuming what was killed; on the way, both go back where a loss jumps."""
    folder = tmp_path / "run"
    shutil.copytree(killed[0], folder)
    goes_back = {"BadSteps.policy": "back", "BadSteps.back_steps": 1, "BadSteps.most": 10**6}
    goes_back |= {"BadSteps.spike": 0.02, "BadSteps.window": 2}
    steps = functools.partial(losses, folder)

    def has_gone_back():
        found = read_metrics(str(folder))
        bad = [record["step"] for record in found if record["kind"] == "bad_step"]
        return bad and max(record["step"] for record in found) > min(bad)

    with Hosts(2, tmp_path, command(folder, layout="data", **ENDLESS | goes_back)) as hosts:
        until(has_gone_back, hosts)
        hosts.processes[1].send_signal(signal.SIGTERM)
        assert hosts.wait() == [143, 143], hosts.said()
        said = hosts.said()[0]
        saved = int(re.search(r"interrupted by SIGTERM: saved step (\d+) in", said)[1])
    assert "resumes from step 3 of" in said and "back to step" in said
    assert list((folder / "bad_steps").iterdir())
    assert ModelDir(str(folder)).steps()[-1] == saved == max(steps())


def test_two_hosts_evaluate_what_one_process_saved_with_its_figures(one, tmp_path):
    found = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        shutil.copytree(one, folder)
        flags = [f"--gin_file={file}" for file in (*FILES, "runs/eval.gin")]
        given = SMALL | {"MESH_SHAPE": "batch:4", "GROUPS_MULTIPLE": 4}
        given |= {"CHECKPOINT_PATH": str(folder)}
        flags += [f"--gin.{name}={value!r}" for name, value in given.items()]
        arguments = [sys.executable, "-m", "switch_tf.commands.main", "eval", *flags]
        with Hosts(number, tmp_path, arguments) as hosts:
            assert hosts.wait() == [0] * number, hosts.said()
        (figures,) = (folder / "evaluations").glob("*.json")
        (answers,) = folder.glob("evaluations/*_predictions/*.jsonl")
        found.append((json.loads(figures.read_text()), answers.read_text()))
    assert hosts.said()[1] == ""
    (of_one, its_answers), (of_two, their_answers) = found
    assert their_answers == its_answers and list(of_two) == list(of_one) == ["toy_copy"]
    assert {"nlp", "accuracy"} <= of_one["toy_copy"].keys()
    assert of_two["toy_copy"] == pytest.approx(of_one["toy_copy"], rel=1e-5)


@pytest.fixture
def cached(tmp_path):
    """Settings of a packed mixture that is read from a cache."""
    cached_tasks.forget()
    cached_tasks.write_mixture(tmp_path / "cache")
    yield cached_tasks.OF_MIXTURE | {"CACHE_DIR": str(tmp_path / "cache")}
    cached_tasks.forget()


def test_four_hosts_with_a_model_dimension_read_their_rows_of_a_cache_as_one_goes_on(
    cached, tmp_path
):
    """Two devices each; each half of a layer is on two hosts, which have the same rows."""
    settings = cached | {"MESH_SHAPE": "model:2,batch:4", "layout": "expert_model_data"}
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    for folder, number, steps in ((parts, 4, 3), (parts, 1, STEPS), (whole, 1, STEPS)):
        arguments = command(folder, **settings, TRAIN_STEPS=steps)
        with Hosts(number, tmp_path, arguments) as hosts:
            assert hosts.wait() == [0] * number, hosts.said()
            assert ("; this host makes 4 of 8 rows" in hosts.said()[0]) == (number > 1)
    found, expected = losses(parts), losses(whole)
    assert list(found) == list(expected) == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(
        [found[step] for step in (1, 2, 3)], [expected[step] for step in (1, 2, 3)], rtol=1e-5
    )
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-4)
    written = [name for name in os.listdir(parts / "checkpoint_3") if "state.data" in name]
    assert len(written) == 4
    # The chief's file holds what all hosts knew.
    assert position(parts) == position(whole)
    assert evaluated(parts) == pytest.approx(evaluated(whole), rel=1e-5)


def position(folder):
    """What the last checkpoint says of the position in a cache."""
    reader = tensor_files.reader(data_prefix(ModelDir(str(folder)).checkpoint(STEPS)))
    (name,) = [name for name in reader.get_variable_to_shape_map() if "py_state" in name]
    return reader.get_tensor(name)


def evaluated(folder):
    """Task -> NLP of the evaluation at step 3."""
    found = [r for r in read_metrics(str(folder)) if r["kind"] == "evaluation" and r["step"] == 3]
    assert found
    return {record["task"]: record["nlp"] for record in found}

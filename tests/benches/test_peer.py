import json
import sys

import pytest

from switch_tf.benches.peer import peer, sizes
from switch_tf.errors import UserError
from tests.helpers import task_data, tiny_model

DATA = task_data(None, {"inputs": 8, "targets": 4}, 2)


@pytest.fixture
def python(tmp_path):
    """Writes a Python of a peer, which runs the given lines in place of the peer's module."""

    def write(*lines):
        path = tmp_path / "python"
        path.write_text("\n".join([f"#!{sys.executable}", "import json, sys", *lines]))
        path.chmod(0o755)
        return str(path)

    return write


def test_a_peer_gets_the_sizes_and_answers_each_step(python):
    ready = {"versions": {"other": "1.2"}, "parameters": 7}
    path = python(
        "sizes = json.loads(sys.argv[2])",
        f"print(json.dumps({ready}), flush=True)",
        "for number, line in enumerate(sys.stdin, 1):",
        "    print(json.dumps({'peak_bytes': number * sizes['d_model']}), flush=True)",
    )
    with peer("hf", {"d_model": 10}, path) as other:
        assert str(other) == "other 1.2" and other.parameters == 7
        for expected in (10, 20):
            other.call()
            assert other.peak_bytes == expected
    assert other._process.poll() is not None


def test_a_peer_that_ends_is_one_line(python):
    path = python("sys.exit('no module named torch')")
    with (
        pytest.raises(UserError, match="the peer ended: no module named torch; see whether"),
        peer("hf", {}, path),
    ):
        pytest.fail("it started")


def test_a_peer_without_an_environment_says_how_to_make_one(tmp_path):
    with pytest.raises(UserError, match="pip install -r requirements-bench.txt"):
        peer("hf", {}, str(tmp_path / "none")).__enter__()


def test_the_peers_sizes_are_those_of_the_model():
    found = sizes(tiny_model(4), DATA)
    assert json.loads(json.dumps(found)) == found
    assert (found["num_experts"], found["batch_size"], found["targets"]) == (4, 2, 4)
    assert found["expert_capacity"] >= 1 and not found["decodes"]
    assert sizes(tiny_model(expert_frequency=0), DATA)["num_experts"] == 0


def test_a_model_that_no_peer_has_is_one_line():
    with pytest.raises(UserError, match="models with ReLU, a tied softmax"):
        sizes(tiny_model(4, activation="geglu"), DATA)

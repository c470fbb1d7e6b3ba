import pytest

from switch_tf import process, runtime
from switch_tf.training.restarts import Restarts


@pytest.fixture
def of_command(monkeypatch):
    monkeypatch.setattr(process, "can_restart", lambda: True)


def test_the_process_of_a_command_starts_anew_after_its_steps(of_command):
    restarts = Restarts(period=3)
    assert [steps for steps in range(6) if restarts.due(steps)] == [3, 4, 5]


@pytest.mark.parametrize("why", ["no period", "called from Python", "another device"])
def test_others_go_on(of_command, monkeypatch, why):
    if why == "called from Python":
        monkeypatch.setattr(process, "can_restart", lambda: False)
    if why == "another device":
        monkeypatch.setattr(runtime, "device_type", lambda: "TPU")
    assert not Restarts(period=None if why == "no period" else 3).due(1_000)

import time

import pytest
import tensorflow as tf

from switch_tf import runtime, storage
from switch_tf.errors import UserError
from switch_tf.training.profiling import Profiler, profiled_steps


@pytest.mark.parametrize(
    "text, line",
    [
        ("10", "give the first and the last step, such as --profile_steps=10-20"),
        ("10-", "give the first and the last step, such as --profile_steps=10-20"),
        ("a-b", "give the first and the last step, such as --profile_steps=10-20"),
        ("10-1e2", "give the first and the last step, such as --profile_steps=10-20"),
    ],
)
def test_what_is_no_range_is_one_line(text, line):
    with pytest.raises(UserError) as error:
        profiled_steps(text, 100)
    assert str(error.value) == f"--profile_steps={text}: {line}"


@pytest.mark.parametrize("text", ["0-3", "5-4"])
def test_a_range_that_begins_too_early_or_backwards_is_one_line(text):
    with pytest.raises(UserError, match="the first step is 1, and the last must not be before"):
        profiled_steps(text, 100)


def test_steps_that_the_run_does_not_make_and_too_many_are_one_line():
    with pytest.raises(UserError, match="=90-101 goes beyond TRAIN_STEPS=100: give steps that"):
        profiled_steps("90-101", 100)
    with pytest.raises(UserError, match="=1-51 are 51 steps: give at most 50, as a profile"):
        profiled_steps("1-51", 100)
    assert profiled_steps("1-50", 100) == range(1, 51)
    assert profiled_steps("100-100", 100) == range(100, 101)
    assert profiled_steps("90-101", None) == range(90, 102)


def test_a_run_that_is_further_says_which_steps_are_left():
    profiler = Profiler(range(10, 21), "unused")
    assert profiler.missed(9) == Profiler().missed(9) == []
    asked = "--profile_steps=10-20"
    assert profiler.missed(10) == [
        f"{asked}: steps 11 to 20 are profiled, as step 10 is made already"
    ]
    assert profiler.missed(20) == [f"{asked}: no step is profiled, as step 20 is made already"]


@tf.function
def products(x):
    """Some milliseconds on a core."""
    for _ in range(20):
        x = tf.linalg.matmul(x, x)
        x = x / tf.reduce_max(x)
    return x


def run(profiler, steps):
    """Makes steps as the loop does, each with a wait of its own; returns what ends the profile."""
    ended = []
    for step in steps:
        profiler.begin(step)
        started = time.perf_counter()
        time.sleep(0.02)
        with profiler.around(step):
            products(tf.ones([200, 200]))
        if profiler.made(step, time.perf_counter() - started, 0.02):
            ended.append((step, profiler.end()))
    return ended


def test_the_steps_asked_for_are_profiled_and_their_shares_add_up(tmp_path):
    products(tf.ones([200, 200]))
    folder = str(tmp_path / "tensorboard")
    for number in (1, 2):
        # A second one is told from the first.
        with Profiler(range(3, 5), folder) as profiler:
            ((step, (line, figures)),) = run(profiler, range(1, 7))
        assert step == 4 and figures["steps"] == 2
        shares = {n: figures[n] for n in ("computing", "collectives", "input", "other")}
        assert sum(shares.values()) == pytest.approx(1)
        assert shares["computing"] > 0 and shares["collectives"] == 0
        assert shares["input"] == pytest.approx(0.02 / figures["seconds"])
        told = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        assert line == f"profile of steps 3 to 4: {told}; in {folder}"
        assert len(list(tmp_path.glob("tensorboard/plugins/profile/*/*.xplane.pb"))) == number
        # Their names are of whole seconds.
        time.sleep(1.1)


def test_a_run_that_ends_in_between_can_end_its_profile_or_leave_it(tmp_path):
    with Profiler(range(1, 9), str(tmp_path)) as profiler:
        assert run(profiler, range(1, 3)) == []
        line, figures = profiler.end()
        assert line.startswith("profile of steps 1 to 2: ") and figures["steps"] == 2
        assert profiler.end() is None
    with pytest.raises(ZeroDivisionError), Profiler(range(1, 9), str(tmp_path)) as profiler:
        run(profiler, range(1, 3))
        raise ZeroDivisionError
    # It would be refused while another one is being taken.
    tf.profiler.experimental.start("")
    tf.profiler.experimental.stop(save=False)


def test_a_folder_that_cannot_be_written_to_costs_the_profile_and_not_the_run(tmp_path):
    (tmp_path / "file").touch()
    folder = tmp_path / "file/a"
    with Profiler(range(1, 3), str(folder)) as profiler:
        (line,) = profiler.begin(1)
        assert line.startswith(f"warning: no profile is kept: cannot write to '{folder}': ")
        assert "Not a directory" in line
        # It is said once.
        assert run(profiler, range(1, 4)) == [] and profiler.end() is None


@pytest.mark.parametrize("fails", ["make_folder", "opened"])
def test_a_remote_file_system_that_fails_costs_the_profile_and_not_the_run(
    tmp_path, monkeypatch, fails
):
    def fail(*_):
        raise tf.errors.UnavailableError(None, None, "HTTP 503 of gs://b")

    monkeypatch.setattr(storage, fails, fail)
    with Profiler(range(1, 3), str(tmp_path)) as profiler:
        told = profiler.begin(1)
        products(tf.ones([200, 200]))
        ended = run(profiler, range(1, 4))
    if fails == "opened":
        assert told == [] and [step for step, _ in ended] == [2]
        told, figures = [ended[0][1][0]], ended[0][1][1]
        assert figures == {}
    else:
        assert ended == []
    assert told[0].startswith("warning: no profile is kept: cannot ")
    assert "HTTP 503 of gs://b" in told[0]


def test_a_profile_that_cannot_be_written_at_its_end_costs_no_run(tmp_path, monkeypatch):
    stop = tf.profiler.experimental.stop

    def fail():
        stop(save=False)
        raise tf.errors.InternalError(None, None, "quota")

    monkeypatch.setattr(tf.profiler.experimental, "stop", fail)
    with Profiler(range(1, 3), str(tmp_path)) as profiler:
        profiler.begin(1)
        line, figures = profiler.end()
    assert (line, figures) == (
        f"warning: no profile is kept: cannot write to '{tmp_path}': quota",
        {},
    )


def test_only_the_chief_takes_a_profile(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "is_chief", lambda: False)
    with Profiler(range(1, 3), str(tmp_path)) as profiler:
        assert run(profiler, range(1, 4)) == []
    assert not list(tmp_path.iterdir())

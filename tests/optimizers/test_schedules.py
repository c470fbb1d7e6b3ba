import doctest
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from switch_tf.errors import UserError
from switch_tf.optimizers import schedules

GOLDEN = pathlib.Path(__file__).parents[1] / "golden/mesh_tf/adafactor.npz"
# Of the golden schedules: 2^19 steps, the last tenth of them a linear decay to 0.
GOLDEN_TOTAL = 524_288


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as arrays:
        return {name: arrays[name] for name in arrays if name.startswith("schedule/")}


def rates(schedule, steps):
    compiled = tf.function(schedule)
    return np.array([compiled(tf.constant(step, tf.int64)).numpy() for step in steps])


def test_rsqrt_is_mesh_tensorflows(golden):
    ours = rates(schedules.rsqrt(warmup_steps=10_000), golden["schedule/steps"])
    np.testing.assert_allclose(ours, golden["schedule/noam_no_decay"], rtol=1e-6)


def test_linear_decay_falls_as_mesh_tensorflows_does(golden):
    # Mesh-TF multiplies the rsqrt by a factor that falls over the last tenth of the steps.
    start = round(0.9 * GOLDEN_TOTAL)
    late = golden["schedule/steps"] > start
    assert late.any()
    factor = schedules.linear_decay(1.0, warmup_steps=start, total_steps=GOLDEN_TOTAL)
    ours = rates(factor, golden["schedule/steps"][late]) * golden["schedule/noam_no_decay"][late]
    np.testing.assert_allclose(ours, golden["schedule/noam"][late], rtol=1e-5)


def test_rsqrt_scales():
    assert rates(schedules.rsqrt(warmup_steps=4, scale=3.0), [0, 4, 9]).tolist() == pytest.approx(
        [1.5, 1.5, 1.0]
    )


def test_linear_decay_without_warmup_starts_at_its_peak_and_stays_at_its_end():
    schedule = schedules.linear_decay(peak=1.0, warmup_steps=0, total_steps=4, end=0.2)
    np.testing.assert_allclose(rates(schedule, [0, 2, 4, 100]), [1.0, 0.6, 0.2, 0.2], rtol=1e-6)


@pytest.mark.parametrize(
    "schedule",
    [schedules.constant(1), schedules.rsqrt(4), schedules.linear_decay(1, 2, 4)],
    ids=["constant", "rsqrt", "linear_decay"],
)
@pytest.mark.parametrize("step", [3, np.int64(3)])
def test_a_rate_is_a_float32_scalar(schedule, step):
    rate = schedule(step)
    assert rate.dtype == tf.float32 and rate.shape == ()


@pytest.mark.parametrize(
    "make, culprit",
    [
        (lambda: schedules.rsqrt(warmup_steps=0), "rsqrt.warmup_steps=0"),
        (lambda: schedules.linear_decay(1.0, 5, 5), "linear_decay.warmup_steps=5"),
        (lambda: schedules.linear_decay(1.0, -1, 5), "linear_decay.warmup_steps=-1"),
    ],
)
def test_a_schedule_that_cannot_be_names_its_setting(make, culprit):
    with pytest.raises(UserError, match=culprit):
        make()


def test_docstring_examples():
    result = doctest.testmod(schedules)
    assert result.attempted > 0 and result.failed == 0

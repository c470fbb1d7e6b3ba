"""Learning rate schedules: functions of the 0-based step, selected and configured in gin.

Each factory returns a function `step -> learning rate` from an int scalar (tensor or number) to a
float32 scalar tensor. It may be called inside compiled functions, with or without a mesh.

Gin files refer to them as `@schedules.rsqrt()` and so on: gin has a `constant` of its own, so the
bare name would be ambiguous.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import tensorflow as tf

from switch_tf.errors import UserError
from switch_tf.rules import Count, NonNegative, Rule, Whole, configurable

Schedule = Annotated[
    Callable[[tf.Tensor], tf.Tensor],
    Rule(
        "a schedule: @schedules.constant(), @schedules.rsqrt(), @schedules.linear_decay(), or a "
        "function of the step"
    ),
]


def not_given(step: tf.Tensor) -> tf.Tensor:
    """Placeholder for a missing schedule, which optimizers refuse."""
    raise UserError("no learning rate: give the optimizer a schedule")


def describe(schedule: Schedule) -> str:
    """Describes a schedule by its factory and arguments, or any other function by its name.

    >>> describe(constant(0.5))
    'constant(value=0.5)'
    """
    return getattr(schedule, "text", None) or getattr(schedule, "__name__", repr(schedule))


def _named(schedule: Schedule, text: str) -> Schedule:
    schedule.text = text
    return schedule


@configurable
def constant(value: NonNegative) -> Schedule:
    """`value` at every step, as in the paper's fine-tuning (Sec. 3.1); T5 uses 0.001 there.

    Args:
      value: the learning rate.

    >>> schedule = constant(0.5)
    >>> float(schedule(0)), float(schedule(1000))
    (0.5, 0.5)
    """
    return _named(lambda step: tf.constant(value, tf.float32), f"constant(value={value})")


@configurable
def rsqrt(warmup_steps: Count = 10_000, scale: NonNegative = 1.0) -> Schedule:
    """scale / sqrt(max(step, warmup_steps)): T5's pre-training rate (Mesh-TF `truncated_rsqrt`).

    Constant during the warm-up, then decays with the inverse square root of the step. The peak is
    scale / sqrt(warmup_steps), so a shorter warm-up raises it: T5's 10,000 steps give 0.01, the
    100 steps of short runs 0.1.

    Args:
      warmup_steps: steps at the start during which the rate is constant.
      scale: factor of the whole curve; 1.0 is T5's.

    >>> schedule = rsqrt(warmup_steps=4)
    >>> float(schedule(0)), float(schedule(16))
    (0.5, 0.25)
    """

    def schedule(step):
        return scale * tf.math.rsqrt(tf.maximum(tf.cast(step, tf.float32), float(warmup_steps)))

    return _named(schedule, f"rsqrt(warmup_steps={warmup_steps}, scale={scale})")


@configurable
def linear_decay(
    peak: NonNegative, warmup_steps: Whole, total_steps: Count, end: NonNegative = 0.0
) -> Schedule:
    """Rises linearly from 0 to `peak` during the warm-up, then falls linearly to `end`.

    With w = warmup_steps and T = total_steps: peak · step/w for step < w, then
    peak + (end - peak) · (step - w)/(T - w), and `end` from T on. Without a warm-up it starts at
    `peak`. Set T to TRAIN_STEPS; a run extended beyond T would train on at `end`.

    Args:
      peak: the highest learning rate, at the end of the warm-up.
      warmup_steps: steps during which the rate rises; 0 starts at `peak`.
      total_steps: the step at which `end` is reached.
      end: the learning rate of that step and of all later ones.

    >>> schedule = linear_decay(peak=1.0, warmup_steps=4, total_steps=12)
    >>> [float(schedule(step)) for step in (0, 2, 4, 10, 12, 13)]
    [0.0, 0.5, 1.0, 0.25, 0.0, 0.0]

    Raises:
      UserError: `total_steps` is not larger than `warmup_steps`.
    """
    if warmup_steps >= total_steps:
        raise UserError(
            f"linear_decay.warmup_steps={warmup_steps} and total_steps={total_steps}: "
            "warm up for fewer steps than the total"
        )

    def schedule(step):
        step = tf.cast(step, tf.float32)
        fallen = tf.clip_by_value((step - warmup_steps) / (total_steps - warmup_steps), 0.0, 1.0)
        risen = tf.minimum(step / warmup_steps, 1.0) if warmup_steps else 1.0
        return risen * (peak + (end - peak) * fallen)

    text = f"linear_decay(peak={peak}, warmup_steps={warmup_steps}, total_steps={total_steps}"
    return _named(schedule, f"{text}, end={end})")

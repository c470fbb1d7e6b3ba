"""Learning rate schedules: functions of the 0-based step, chosen and set from gin.

Each factory returns a function `step -> learning rate`: an int scalar (tensor or number) in, a
float32 scalar tensor out. It may be called inside a compiled function, on a mesh or off it.

Gin files name them `@schedules.rsqrt()` and so on: gin has a `constant` of its own, so that the
bare name is ambiguous.
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
    """What stands for the schedule that an optimizer was not given, which it refuses."""
    raise UserError("no learning rate: give the optimizer a schedule")


def describe(schedule: Schedule) -> str:
    """A schedule in words: its factory with what it was given; of another function, its name.

    >>> describe(constant(0.5))
    'constant(value=0.5)'
    """
    return getattr(schedule, "text", None) or getattr(schedule, "__name__", repr(schedule))


def _named(schedule: Schedule, text: str) -> Schedule:
    schedule.text = text
    return schedule


@configurable
def constant(value: NonNegative) -> Schedule:
    """`value` at every step; the paper fine-tunes so (Sec. 3.1).

    >>> schedule = constant(0.5)
    >>> float(schedule(0)), float(schedule(1000))
    (0.5, 0.5)
    """
    return _named(lambda step: tf.constant(value, tf.float32), f"constant(value={value})")


@configurable
def rsqrt(warmup_steps: Count = 10_000, scale: NonNegative = 1.0) -> Schedule:
    """scale / sqrt(max(step, warmup_steps)): T5's pre-training rate (Mesh-TF `truncated_rsqrt`).

    Constant over the warm-up, then the inverse square root of the step.

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
    """Rises linearly from 0 to `peak` over the warm-up, then falls linearly to `end`.

    With w = warmup_steps and T = total_steps: peak · step/w for step < w, then
    peak + (end - peak) · (step - w)/(T - w), and `end` from T on. Without a warm-up it starts at
    `peak`.

    >>> schedule = linear_decay(peak=1.0, warmup_steps=4, total_steps=12)
    >>> [float(schedule(step)) for step in (0, 2, 4, 10, 12, 13)]
    [0.0, 0.5, 1.0, 0.25, 0.0, 0.0]

    Raises:
      UserError: `total_steps` is not beyond the warm-up.
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

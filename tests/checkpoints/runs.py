"""Runs of a weight or two, for tests of checkpoints."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.experimental import dtensor

from switch_tf import mesh as mesh_lib
from switch_tf.checkpoints.manager import Checkpoints
from switch_tf.errors import UserError
from switch_tf.optimizers.adafactor import Adafactor
from switch_tf.optimizers.schedules import constant


def numbers():
    """A dataset of 100 numbers, read ahead."""
    return tf.data.Dataset.range(100).prefetch(4)


def fill(slots):
    """Random values in place of the slots' zeros."""
    generator = np.random.default_rng(0)
    for slot in slots.values():
        value = generator.random(slot.shape, np.float32)
        if isinstance(slot, dtensor.DVariable):
            parts = [tf.constant(value[place]) for place in mesh_lib.local_places(slot)]
            slot.assign(dtensor.pack(parts, slot.layout))
        else:
            slot.assign(value)


def small_run(
    folder,
    value=0.0,
    keep=3,
    beta1=0.0,
    dataset=None,
    config=str,
    keep_period=None,
    files=(),
    **more,
):
    """A run whose weights, `wi` and `more`, are all of one value."""
    shapes = {"wi": (4, 3)} | more
    weights = [
        keras.Variable(np.full(shape, value, np.float32), name=name)
        for name, shape in shapes.items()
    ]
    model = types.SimpleNamespace(trainable_variables=weights)
    optimizer = Adafactor(constant(0.1), beta1=beta1)
    optimizer.build(weights)
    iterator = iter(numbers() if dataset is None else dataset)
    run = Checkpoints(str(folder), keep, model, optimizer, iterator, config, keep_period, files)
    return types.SimpleNamespace(
        model=model, optimizer=optimizer, iterator=iterator, checkpoints=run, weights=weights
    )


def save_steps(folder, steps, keep=3):
    """Saves checkpoints whose weights, and whose position in the data, are the step."""
    for step in steps:
        run = small_run(folder, float(step), keep)
        for _ in range(step):
            next(run.iterator)
        run.checkpoints.save(step)


def line_of(function, *arguments):
    """The text of the UserError that a call raises."""
    with pytest.raises(UserError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def damage(path, how):
    """Cuts, empties, flips a byte of, or removes a file."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle] ^= 0xFF
    ends = {"cut": content[:middle], "empty": b"", "flipped": content}
    path.unlink()
    if how in ends:
        path.write_bytes(ends[how])

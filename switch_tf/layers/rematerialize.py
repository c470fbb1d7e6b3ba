"""Rematerialisation: activations are recomputed in the backward pass (Chen et al., 2016)."""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from switch_tf.layers.base import lay_out
from switch_tf.layers.context import CallContext, current_call, enter
from switch_tf.layers.dropout import current_seed
from switch_tf.layers.routing import Report


def rematerialize(function: Callable, x, *others, add_loss: Callable | None = None):
    """Computes `function(x, *others)`; the backward pass runs it again from the inputs.

    Noise is the same in both runs. Switch layers report once, and their losses keep a gradient.

    Args:
      function: maps tensors to a tensor of x's shape; may read variables.
      x: [batch, length, d_model].
      *others: further tensors that receive gradients.
      add_loss: called with the loss of the Switch layers if nothing collects their reports.

    Returns:
      The function's value.
    """
    outer = current_call()
    # If no seed is set, draw one now, so that both runs share it.
    call = dataclasses.replace(outer, seed=current_seed())
    reported: list[Report] = []

    @tf.custom_gradient
    def run(*inputs):
        with enter(dataclasses.replace(call, reports=[])) as first:
            y = function(*inputs)
        reported.extend(first.reports)
        loss = _total_losses(first.reports)

        def gradient(dy, dloss, variables=()):
            return _gradients_made_again(call, function, inputs, variables, dy, dloss)

        return (y, loss), gradient

    y, losses = run(x, *others)
    left = dict(enumerate(tf.unstack(losses)))
    for report in reported:
        # The first report of each kind carries the sum of that kind's losses, with its gradient;
        # the reports' own tensors have no gradient.
        known = left.pop(int(report.by_tokens), tf.zeros([]))
        report = dataclasses.replace(report, known_loss=known)
        if outer.reports is not None:
            outer.reports.append(report)
    if reported and outer.reports is None and add_loss is not None:
        add_loss(tf.reduce_sum(losses))
    return y


def _gradients_made_again(call: CallContext, function, inputs, variables, dy, dloss):
    """Gradients of the inputs and of the variables, by running the function once more."""
    # This equals the input wherever dy is not NaN. If it did not depend on the backward pass, the
    # compiler would merge both runs of the function and keep the activations of the first.
    dy = lay_out(dy, ("batch", "length", None))
    again = tf.where(tf.math.is_nan(dy), dy, inputs[0])
    fresh = [
        lay_out(again, ("batch", "length", None)),
        *(tf.identity(value) for value in inputs[1:]),
    ]
    with tf.GradientTape() as tape:
        tape.watch(fresh)
        with enter(dataclasses.replace(call, reports=[], watched=None)) as second:
            y = function(*fresh)
        loss = _total_losses(second.reports)
    gradients = tape.gradient(
        [y, loss],
        [*fresh, *variables],
        [dy, dloss],
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    return gradients[: len(fresh)], gradients[len(fresh) :]


def _total_losses(reports):
    """Sum of the losses that are not means over tokens, and of those that are; [2]."""
    sums = [tf.zeros([]), tf.zeros([])]
    for report in reports:
        sums[int(report.by_tokens)] += report.loss()
    return tf.stack(sums)

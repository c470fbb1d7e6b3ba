"""Activations made again in the backward pass, not kept for it (Chen et al., 2016)."""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from switch_tf.layers.base import lay_out
from switch_tf.layers.context import CallContext, current_call, enter
from switch_tf.layers.dropout import current_seed
from switch_tf.layers.routing import Report


def rematerialize(function: Callable, x, *others, add_loss: Callable | None = None):
    """`function(x, *others)`, whose backward pass runs it again from the inputs.

    Noise is the same in both runs. Switch layers report once; their losses keep their gradient.

    Args:
      function: of tensors, to a tensor of x's shape; it may read variables.
      x: [batch, length, d_model].
      *others: further tensors that get a gradient.
      add_loss: called with the loss of the Switch layers where nothing collects their reports.

    Returns:
      The function's value.
    """
    outer = current_call()
    # Where nobody has set the seed it is drawn now, so that both runs have the same.
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
        # The layers' losses as one of each kind, with its gradient: the reports' own tensors have
        # none.
        known = left.pop(int(report.by_tokens), tf.zeros([]))
        report = dataclasses.replace(report, known_loss=known)
        if outer.reports is not None:
            outer.reports.append(report)
    if reported and outer.reports is None and add_loss is not None:
        add_loss(tf.reduce_sum(losses))
    return y


def _gradients_made_again(call: CallContext, function, inputs, variables, dy, dloss):
    """Gradients of the inputs, and of the variables, by running the function once more."""
    # Where dy is a number, the input. Without something of the backward pass in it, the compiler
    # would see the same operations twice and keep the first.
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
    """[2]: the sum of the layers' losses that are not means over tokens, and of those that are."""
    sums = [tf.zeros([]), tf.zeros([])]
    for report in reports:
        sums[int(report.by_tokens)] += report.loss()
    return tf.stack(sums)

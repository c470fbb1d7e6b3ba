"""Which dispatcher is faster on this machine.

    python -m switch_tf.benches.dispatchers

times the forward and backward pass of a Switch layer with each, over group sizes and expert counts.
"""

from collections.abc import Iterator

from switch_tf import runtime
from switch_tf.benches.timing import time_in_turn
from switch_tf.metrics.tables import table

# (group size, experts) of the quickstart, of a run on a laptop, and of Switch-Base.
SIZES = ((512, 8), (2048, 8), (2048, 64), (4096, 128))
_TOKENS, _D_MODEL, _D_FF = 8192, 64, 256
_SECONDS = 3.0


def seconds_per_layer(group_size: int, num_experts: int) -> dict[str, float]:
    """Seconds per forward and backward pass of one Switch layer, by dispatcher name.

    The dispatchers alternate; the best of many repetitions counts.

    Args:
      group_size: S, tokens per group.
      num_experts: E, number of experts.
    """
    import tensorflow as tf

    from switch_tf.layers.context import collect
    from switch_tf.layers.dispatch import EinsumDispatcher, GatherDispatcher
    from switch_tf.layers.switch_ffn import SwitchFFN

    def make(dispatcher):
        layer = SwitchFFN(num_experts, _D_FF, group_size=group_size, dispatcher=dispatcher)
        layer.build((None, None, _D_MODEL))

        @tf.function(autograph=False)
        def run(x_BLM):
            with tf.GradientTape() as tape, collect():
                tape.watch(x_BLM)
                loss = tf.reduce_sum(tf.square(layer(x_BLM)))
            return tape.gradient(loss, [x_BLM, layer.router.kernel.value, layer.experts.wo.value])

        run(x_BLM)
        return lambda: [gradient.numpy() for gradient in run(x_BLM)]

    x_BLM = tf.random.stateless_normal([_TOKENS // group_size, group_size, _D_MODEL], [0, 0])
    calls = {kind.__name__: make(kind) for kind in (GatherDispatcher, EinsumDispatcher)}
    return {name: spread.lowest for name, spread in time_in_turn(calls, seconds=_SECONDS).items()}


def rows() -> Iterator[tuple[str, ...]]:
    """The rows of a table over `SIZES`, the heading first."""
    yield ("group size", "experts", "gather, ms", "einsum, ms", "einsum / gather")
    for group_size, num_experts in SIZES:
        seconds = seconds_per_layer(group_size, num_experts)
        gather, einsum = seconds["GatherDispatcher"], seconds["EinsumDispatcher"]
        times = f"{1e3 * gather:.1f}", f"{1e3 * einsum:.1f}", f"{einsum / gather:.1f}"
        yield (f"{group_size:,}", f"{num_experts:,}", *times)


if __name__ == "__main__":
    runtime.start()
    print(*table(rows()), sep="\n")

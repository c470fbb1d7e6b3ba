"""Which dispatcher this machine is faster with.

    python -m switch_tf.benches.dispatchers

times a Switch layer, forward and backward, with each, over group sizes and numbers of experts.
"""

import time
from collections.abc import Iterator

from switch_tf import runtime

# (group size, experts): of the quickstart, of a laptop's run, of Switch-Base.
SIZES = ((512, 8), (2048, 8), (2048, 64), (4096, 128))
_TOKENS, _D_MODEL, _D_FF = 8192, 64, 256
_SECONDS_EACH = 3.0


def seconds_per_layer(group_size: int, num_experts: int) -> dict[str, float]:
    """Seconds of one Switch layer, forward and backward, by the dispatcher's name.

    Both in turn, the best of many repetitions: other programs only ever make them slower.

    Args:
      group_size: S.
      num_experts: E.
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

        return run

    x_BLM = tf.random.stateless_normal([_TOKENS // group_size, group_size, _D_MODEL], [0, 0])
    runs = {kind.__name__: make(kind) for kind in (GatherDispatcher, EinsumDispatcher)}
    best = {}
    for name, run in runs.items():
        run(x_BLM)
        best[name] = float("inf")
    end = time.perf_counter() + _SECONDS_EACH
    while time.perf_counter() < end:
        for name, run in runs.items():
            start = time.perf_counter()
            for gradient in run(x_BLM):
                gradient.numpy()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def table() -> Iterator[str]:
    """Lines of a table over `SIZES`, each made when it is asked for."""
    yield "group size  experts  gather, ms  einsum, ms  einsum / gather"
    for group_size, num_experts in SIZES:
        seconds = seconds_per_layer(group_size, num_experts)
        gather, einsum = seconds["GatherDispatcher"], seconds["EinsumDispatcher"]
        yield (
            f"{group_size:10}  {num_experts:7}  {1e3 * gather:10.1f}  {1e3 * einsum:10.1f}  "
            f"{einsum / gather:15.1f}"
        )


if __name__ == "__main__":
    runtime.start()
    for line in table():
        print(line, flush=True)

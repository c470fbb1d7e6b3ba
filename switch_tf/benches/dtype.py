"""Which of float32 and bfloat16 this machine computes faster in."""

import time

# Of a feed-forward layer of the tiny models, as one device of eight sees it.
_EXPERTS, _TOKENS, _D_MODEL, _D_FF = 8, 160, 64, 256
_SECONDS_EACH = 1.0


def seconds_per_layer() -> dict[str, float]:
    """Seconds of a small feed-forward layer, forward and backward, by DTYPE.

    Processors without bfloat16 products are many times slower in it, silently. The best of many
    repetitions is taken: other programs only ever make them slower.
    """
    import tensorflow as tf

    @tf.function(autograph=False)
    def layer(x_ETM, wi_EMF, wo_EFM):
        with tf.GradientTape() as tape:
            tape.watch([x_ETM, wi_EMF, wo_EFM])
            y_ETM = tf.matmul(tf.nn.relu(tf.matmul(x_ETM, wi_EMF)), wo_EFM)
            loss = tf.reduce_sum(tf.cast(y_ETM, tf.float32))
        return tape.gradient(loss, [x_ETM, wi_EMF, wo_EFM])

    shapes = ((_TOKENS, _D_MODEL), (_D_MODEL, _D_FF), (_D_FF, _D_MODEL))
    best = {}
    for name in ("float32", "bfloat16"):
        arguments = [tf.ones([_EXPERTS, *shape], name) for shape in shapes]
        layer(*arguments)
        best[name] = float("inf")
        end = time.perf_counter() + _SECONDS_EACH
        while time.perf_counter() < end:
            start = time.perf_counter()
            for gradient in layer(*arguments):
                gradient.numpy()
            best[name] = min(best[name], time.perf_counter() - start)
    return best

"""Which of float32 and bfloat16 this machine computes faster in."""

from switch_tf.benches.timing import time_in_turn

# Of a feed-forward layer of the tiny models, as one device of eight sees it.
_EXPERTS, _TOKENS, _D_MODEL, _D_FF = 8, 160, 64, 256
_SECONDS = 2.0


def seconds_per_layer() -> dict[str, float]:
    """Seconds of a small feed-forward layer, forward and backward, by DTYPE.

    Processors without bfloat16 products are many times slower in it, silently. Both in turn, the
    best of many repetitions.
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

    def call(dtype):
        arguments = [tf.ones([_EXPERTS, *shape], dtype) for shape in shapes]
        layer(*arguments)
        return lambda: [gradient.numpy() for gradient in layer(*arguments)]

    calls = {dtype: call(dtype) for dtype in ("float32", "bfloat16")}
    return {name: spread.lowest for name, spread in time_in_turn(calls, seconds=_SECONDS).items()}

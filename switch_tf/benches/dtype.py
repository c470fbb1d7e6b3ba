"""Whether float32 or bfloat16 is faster on this machine."""

from switch_tf.benches.timing import time_in_turn

# The feed-forward layer of the tiny models, as sharded over eight devices.
_EXPERTS, _TOKENS, _D_MODEL, _D_FF = 8, 160, 64, 256
_SECONDS = 2.0


def seconds_per_layer() -> dict[str, float]:
    """Seconds per forward and backward pass of a small feed-forward layer, by DTYPE.

    Processors without bfloat16 multiplication are slower in it. The dtypes alternate; the best of
    many repetitions counts.
    """
    import tensorflow as tf

    from switch_tf.layers.products import product

    @tf.function(autograph=False)
    def layer(x_ETM, wi_EMF, wo_EFM):
        with tf.GradientTape() as tape:
            tape.watch([x_ETM, wi_EMF, wo_EFM])
            hidden_ETF = tf.nn.relu(product("ETM,EMF->ETF", x_ETM, wi_EMF))
            y_ETM = product("ETF,EFM->ETM", hidden_ETF, wo_EFM)
            loss = tf.reduce_sum(tf.cast(y_ETM, tf.float32))
        return tape.gradient(loss, [x_ETM, wi_EMF, wo_EFM])

    shapes = ((_TOKENS, _D_MODEL), (_D_MODEL, _D_FF), (_D_FF, _D_MODEL))

    def call(dtype):
        arguments = [tf.ones([_EXPERTS, *shape], dtype) for shape in shapes]
        layer(*arguments)
        return lambda: [gradient.numpy() for gradient in layer(*arguments)]

    calls = {dtype: call(dtype) for dtype in ("float32", "bfloat16")}
    return {name: spread.lowest for name, spread in time_in_turn(calls, seconds=_SECONDS).items()}

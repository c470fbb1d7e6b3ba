import math

import numpy as np
import pytest

from switch_tf.errors import UserError
from switch_tf.layers.feed_forward import FeedForward
from tests.helpers import compiled, error


@pytest.mark.parametrize("activation", ["relu", "geglu"])
def test_the_layer_is_the_formula(activation):
    layer = FeedForward(12, activation)
    layer.build((2, 3, 4))
    x_BLM = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    hiddens = [x_BLM @ wi_MF.numpy() for wi_MF in layer.wi]
    if activation == "relu":
        hidden_BLF = np.maximum(hiddens[0], 0.0)
    else:
        h = hiddens[0]
        # The tanh form, as T5 1.1.
        gelu = 0.5 * h * (1 + np.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
        hidden_BLF = gelu * hiddens[1]
    assert error(compiled(layer)(x_BLM), hidden_BLF @ layer.wo.numpy()) < 1e-5
    assert layer.flops(4, 3) == 2 * 3 * 4 * 12 * (len(hiddens) + 1)


def test_an_unknown_activation_is_refused():
    with pytest.raises(UserError) as caught:
        FeedForward(12, "swish")
    assert str(caught.value) == "FeedForward.activation='swish': give 'relu' or 'geglu'"

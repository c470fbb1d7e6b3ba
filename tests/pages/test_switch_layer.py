import numpy as np

from switch_tf.pages import switch_layer
from tests.layers.test_router import router_of_logits


def test_a_decision_with_dropped_tokens_and_padding_is_drawn(tmp_path):
    logits = np.random.default_rng(0).normal(size=(2, 12, 4)).astype(np.float32)
    nonpadding = np.ones([2, 12], np.float32)
    nonpadding[0, -3:] = 0.0
    routing = router_of_logits(4, absolute_capacity=1)(logits, nonpadding)
    assert not routing.kept_GS.numpy()[0, :9].all()
    path = tmp_path / "picture.png"
    switch_layer.draw([f"piece{i}" for i in range(12)], routing, path)
    assert path.read_bytes().startswith(b"\x89PNG")

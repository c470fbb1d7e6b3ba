from switch_tf.benches import dtype


def test_both_dtypes_are_timed(monkeypatch):
    monkeypatch.setattr(dtype, "_SECONDS", 0.01)
    found = dtype.seconds_per_layer()
    assert set(found) == {"float32", "bfloat16"}
    assert all(0.0 < seconds < 1.0 for seconds in found.values())

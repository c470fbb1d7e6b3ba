from switch_tf.benches import dispatchers


def test_both_dispatchers_are_timed_at_each_size(monkeypatch):
    monkeypatch.setattr(dispatchers, "SIZES", ((8, 2), (16, 4)))
    monkeypatch.setattr(dispatchers, "_TOKENS", 32)
    monkeypatch.setattr(dispatchers, "_SECONDS", 0.01)
    heading, *rows = dispatchers.rows()
    assert heading[-1] == "einsum / gather" and len(rows) == 2
    for row in rows:
        gather, einsum, ratio = (float(cell) for cell in row[2:])
        assert gather > 0 and einsum > 0 and ratio > 0

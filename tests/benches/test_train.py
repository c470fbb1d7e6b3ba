import pytest

from switch_tf.benches.train import Roofline, lines, part_lines, step_figures

ROOFLINE = Roofline(flops=6e9, bytes=2e9, flops_per_second=3e9, bytes_per_second=4e9)


def test_a_step_cannot_be_faster_than_its_products_and_then_its_update():
    assert ROOFLINE.seconds == 6 / 3 + 2 / 4


def test_shares_are_those_of_the_median_step():
    figures = step_figures([4.0, 10.0, 5.0, 4.5, 6.0], ROOFLINE, tokens=100)
    assert figures["step_seconds"] == 5.0
    quartiles = [figures[f"step_seconds_{which}_quartile"] for which in ("lower", "upper")]
    assert quartiles == [4.5, 6.0]
    assert figures["tokens_per_second"] == 20.0
    assert figures["share_of_matrix_product"] == pytest.approx(6 / 5 / 3)
    assert figures["share_of_roofline"] == pytest.approx(2.5 / 5)


def test_a_single_step_is_its_own_quartiles():
    figures = step_figures([2.0], ROOFLINE, tokens=1)
    assert {v for name, v in figures.items() if name.startswith("step_seconds")} == {2.0}


def test_a_table_says_every_figure():
    figures = step_figures([2.0], ROOFLINE, tokens=1) | {"peak_bytes": 2e9}
    figures |= dict.fromkeys(("first_step_seconds", "seconds_from_command_to_first_step"), 7.0)
    table = list(lines(figures))
    assert table[0].split() == [
        "step,",
        "ms",
        "(quartiles)",
        "2,000.0",
        "(2,000.0",
        "to",
        "2,000.0)",
    ]
    # The quartiles are beside the median.
    assert len(table) == len(figures) - 2
    assert table[-3].endswith(" 2 GB")


def test_parts_are_shown_in_their_order_and_add_up():
    parts = {("optimizer", "forward"): 0.010, ("experts", "backward"): 0.020}
    parts["experts", "forward"] = 0.010
    heading, *rows = (line.split() for line in part_lines(parts))
    assert [row[0] for row in rows] == ["experts", "optimizer", "all"]
    shares = [float(row[-1]) for row in rows]
    assert shares == [75.0, 25.0, 100.0] and heading[-1] == "%"
    assert rows[-1][1:3] == ["20.0", "20.0"]

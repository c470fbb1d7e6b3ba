from pathlib import Path

import pytest

from switch_tf.benches.performance import __main__ as performance
from switch_tf.benches.performance.measurements import Measurement, all_measurements, measure
from switch_tf.benches.performance.targets import Target, slope, targets
from switch_tf.commands import launch
from switch_tf.commands import main as main_module
from switch_tf.errors import UserError

PAGE = Path(__file__).parents[2] / "docs/performance.md"
MEASUREMENTS = all_measurements("python")


@pytest.mark.parametrize(
    "found, bound, is_most, verdict",
    [(0.9, 0.9, False, "met"), (0.8, 0.9, False, "missed"), (1.1, 1.0, True, "missed")],
)
def test_a_target_is_met_or_missed(found, bound, is_most, verdict):
    what, wanted, measured, said = Target("x", found, bound, is_most).row()
    assert (what, said) == ("x", verdict)
    assert wanted.startswith("at most" if is_most else "at least") and measured == f"{found:.2f}"


def test_the_tables_of_the_page_are_those_of_the_figures_beside_it():
    stored = performance.stored_figures()
    assert stored["results"].keys() == {*MEASUREMENTS, "help"}
    page = PAGE.read_text()
    assert performance.with_tables(page, stored) == page
    rows = [target.row() for target in targets(stored["results"])]
    assert all(" | ".join(row) in page for row in rows) and len(rows) > 30


# One of each bench and of each model.
@pytest.mark.parametrize("name", ["train_0_bfloat16", "decode_8", "layer_float32", "devices_8"])
def test_the_command_of_a_measurement_is_accepted(name, monkeypatch):
    class Started(BaseException):
        """The command line was found good."""

    def start(self):
        raise Started

    monkeypatch.setattr(launch.Launch, "start", start)
    with pytest.raises(Started):
        main_module.main(MEASUREMENTS[name].arguments())


def test_what_was_measured_is_not_measured_again_and_a_failure_is_one_line(tmp_path):
    (tmp_path / "a.json").write_text('{"step_seconds": 1.0}')
    (tmp_path / "help.json").write_text('{"seconds": 0.5}')
    bad = Measurement("train", ["models/none.gin"], {})
    assert measure(tmp_path, {"a": bad})["a"] == {"step_seconds": 1.0}
    with pytest.raises(UserError, match="^b: switch-tf: error: --gin_file: no file 'models/none"):
        measure(tmp_path, {"b": bad})


def test_a_slope_is_that_of_least_squares():
    assert slope([0.0, 1.0, 2.0], [0.0, 1.0, 5.0]) == pytest.approx(2.5)

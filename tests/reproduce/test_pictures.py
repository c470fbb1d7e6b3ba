import pytest

from switch_tf.reproduce import pictures
from switch_tf.reproduce.experiments.languages import LIBRARIES
from switch_tf.reproduce.metrics import Curve
from switch_tf.reproduce.registry import EXPERIMENTS
from tests.reproduce import logs

TASK = "pydocs_span_corruption"
TUNED = ("pydocs_copa", "pydocs_rte", "pydocs_library", "pydocs_summary")


def curve(*nlp):
    return Curve((10, 20), nlp, nlp, 2.0)


def test_the_base_model_is_gray_and_no_other_model_is():
    found = pictures.colours([f"m{n}" for n in range(9)] + ["base"], "base")
    assert found["base"] == "tab:gray"
    others = [colour for model, colour in found.items() if model != "base"]
    assert len(set(others)) == 9


def test_curves_are_drawn_by_step_and_by_second():
    curves = {"base": [curve(-5.0, -4.0), curve(-5.0, -4.0)], "Switch": [curve(-4.5, -3.5)]}
    by_step, by_second = pictures.curves_figure(curves, "base").axes
    assert by_step.get_xlabel() == "steps, without the first 35%"
    assert by_second.get_xlabel() == "seconds of training steps, without the first 35%"
    assert max(by_second.lines[0].get_xdata()) == 40.0
    assert [text.get_text() for text in by_step.texts] == ["Switch: after 15 steps\nbase: 20 steps"]


@pytest.mark.parametrize(
    "name", [n for n, experiment in EXPERIMENTS.items() if experiment.is_shared]
)
def test_the_picture_of_each_experiment_is_drawn_from_what_is_done(name, tmp_path):
    experiment = EXPERIMENTS[name]
    runs = experiment.runs(tmp_path, tmp_path)
    if not experiment.picture:
        return
    assert pictures.draw(experiment.picture, experiment, {arm: [] for arm in runs}) is None
    done = dict(list(runs.items())[:3])
    for arm, of_seeds in done.items():
        for run in of_seeds:
            evaluations = [
                logs.evaluation(n, TASK, nlp=-4.0 - n / 10, nlp_dropless=-4.0) for n in (1, 2)
            ]
            evaluations += [
                logs.evaluation(n, f"pydocs_libraries.{name}", nlp=-4.0)
                for name in LIBRARIES
                for n in (1, 2)
            ]
            evaluations += [logs.evaluation(2, task, accuracy=50.0, rouge2=1.0) for task in TUNED]
            logs.write(run, {"parameters": 10, "tokens_per_step": 100}, *evaluations)
            assert arm.seeds
    results = logs.results(done) | {arm: [] for arm in list(runs)[3:]}
    figure = pictures.draw(experiment.picture, experiment, results)
    assert figure.axes and any(axes.lines or axes.patches for axes in figure.axes)

import pytest

from switch_tf.reproduce import scaling
from switch_tf.reproduce.registry import EXPERIMENTS

SIZES = {"a": 10, "b": 100, "c": 1000}
NLP = {model: [-3.0 * size**-0.25] for model, size in SIZES.items()}


def test_the_exponent_of_a_power_law_is_found():
    assert scaling.exponent(SIZES, NLP) == pytest.approx(0.25)
    assert scaling.exponent(SIZES, {"a": [-3.0]}) is None


def test_the_papers_models_of_many_experts_fall_as_the_law_of_routed_models_says():
    by_parameters, by_experts = scaling.of_paper()
    # T5-Base to 256 experts alone: log(1.636 / 1.427) / log(256).
    assert by_experts == pytest.approx(0.0246, abs=0.003)
    assert by_parameters > by_experts
    assert scaling.of_routed_law(0.223e9) == pytest.approx(0.0329, abs=1e-3)


def test_more_parameters_leave_less_for_experts_to_gain():
    assert scaling.of_routed_law(1e6) > scaling.of_routed_law(1e9) > 0


def test_the_remark_sets_ours_beside_both():
    experts = {"a": 1, "b": 8, "c": 64, "d": 128}
    told = scaling.remark(experts, SIZES | {"d": 2000}, NLP)
    assert "the loss falls with parameters^-0.250 and with experts^-0.277." in told
    assert "experts^-0.033 for T5-Base's 223 million" in told


@pytest.mark.parametrize("there", [[], ["a"], ["b", "c"]])
def test_nothing_is_said_before_the_dense_model_and_another_are_there(there):
    experts = {"a": 1, "b": 8, "c": 64}
    assert scaling.remark(experts, SIZES, {model: NLP[model] for model in there}) == ""


def test_figure_1_declares_the_experts_of_all_its_models():
    figure1 = EXPERIMENTS["figure1"]
    assert sorted(figure1.experts.values()) == [1, 2, 4, 8, 16, 32, 64]
    assert figure1.experts.keys() == {arm.model for arm in figure1.arms}

import numpy as np
import pytest

from switch_tf.metrics.load_watch import LoadWatch, load_entropy

EVEN, SKEWED, DEAD = [0.25] * 4, [0.97, 0.01, 0.01, 0.01], [0.5, 0.5, 0.0, 0.0]


def warned(watch, loads):
    """Step -> the warnings of a series of loads of one layer."""
    found = {step: watch.see({"layer": np.array(load)}) for step, load in enumerate(loads)}
    return {step: lines for step, lines in found.items() if lines}


def test_the_entropy_of_a_load_is_1_if_even_and_0_if_one_expert_has_all():
    assert load_entropy(EVEN) == pytest.approx(1.0)
    assert load_entropy([0.0, 1.0]) == 0.0
    assert load_entropy(DEAD) == pytest.approx(0.5)


def test_a_skewed_load_is_told_of_once_after_so_many_steps_in_a_row():
    loads = [SKEWED, SKEWED, EVEN, *[SKEWED] * 6]
    found = warned(LoadWatch(min_load_entropy=0.5, steps=3), loads)
    assert list(found) == [5]
    assert found[5] == [
        "warning: layer: the load's entropy was below 0.5 of an even load's for 3 steps and is now "
        "0.12: raise Router.load_balancing_coef or lower the learning rate"
    ]


def test_experts_without_tokens_are_told_of_once():
    found = warned(LoadWatch(min_load_entropy=0.1, steps=2), [DEAD, EVEN, DEAD, DEAD, DEAD])
    assert list(found) == [3]
    assert "no token chose 2 of 4 experts (first: expert 2) for 2 steps" in found[3][0]


def test_an_even_load_and_a_single_expert_are_no_matter():
    watch = LoadWatch(steps=1)
    assert warned(watch, [EVEN] * 5) == {}
    assert watch.see({"one": np.array([1.0])}) == []


def test_layers_are_told_of_apart():
    watch = LoadWatch(min_load_entropy=0.5, steps=1)
    first = watch.see({"a": np.array(SKEWED), "b": np.array(EVEN)})
    second = watch.see({"a": np.array(SKEWED), "b": np.array(SKEWED)})
    assert [line.split(":")[1].strip() for line in first + second] == ["a", "b"]

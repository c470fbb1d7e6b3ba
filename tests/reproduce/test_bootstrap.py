import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from switch_tf.reproduce import bootstrap

SAMPLE = st.lists(st.floats(-9, 9), min_size=1, max_size=6)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(SAMPLE, SAMPLE)
def test_an_interval_lies_within_what_the_seeds_allow_and_around_their_difference(ours, theirs):
    low, high = bootstrap.interval(bootstrap.lead, ours, theirs)
    assert low <= high
    assert min(ours) - max(theirs) - 1e-9 <= low
    assert high <= max(ours) - min(theirs) + 1e-9
    if len(ours) == len(theirs) == 1:
        assert low == high == pytest.approx(ours[0] - theirs[0])


def test_more_seeds_of_the_same_spread_make_it_narrower():
    few, many = [-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0] * 10
    width = [np.ptp(bootstrap.interval(bootstrap.mean, sample)) for sample in (few, many)]
    assert width[1] < width[0] / 2


def test_it_covers_the_mean_of_a_normal_sample_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(100, 30))
    found = [bootstrap.interval(bootstrap.mean, list(sample)) for sample in samples]
    assert 88 <= sum(low <= 0 <= high for low, high in found) <= 99


def test_nothing_to_draw_from_is_refused():
    with pytest.raises(ValueError, match="a sample is empty"):
        bootstrap.interval(bootstrap.lead, [1.0], [])

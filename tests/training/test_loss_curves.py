"""The numbers of training are those that were kept: see `loss_curves`."""

import numpy as np
import pytest

from tests.training import loss_curves
from tests.training.loss_curves import LAYOUTS, MODELS, STEPS, name_of

# Relative, between processors that add in another order: with other matrix kernels the first steps
# differed by 4e-6, later ones by up to 8%, once a token was routed otherwise.
FIRST_STEPS, TOLERANCE_OF_FIRST, TOLERANCE = 20, 1e-4, 0.15


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("model", MODELS)
def test_a_tiny_model_has_the_loss_curve_that_was_kept(model, layout):
    expected = loss_curves.kept()["curves"][name_of(model, layout)]
    found = loss_curves.curve(model, layout)
    if loss_curves.processor() == loss_curves.kept()["processor"]:
        assert found == expected
    first = slice(0, FIRST_STEPS)
    np.testing.assert_allclose(found[first], expected[first], rtol=TOLERANCE_OF_FIRST)
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE)


def test_the_models_learn_what_they_are_shown():
    for name, losses in loss_curves.kept()["curves"].items():
        assert len(losses) == STEPS
        assert np.mean(losses[-20:]) < np.mean(losses[:20]) - 0.5, name

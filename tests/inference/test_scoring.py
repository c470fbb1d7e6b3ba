import numpy as np
import pytest

from switch_tf.inference.scoring import FEATURES, Scorer
from tests.helpers import place_features, random_features, tiny_model, using


def features_with_weights():
    features = random_features()
    weights_BL = (features["decoder_target_tokens"] > 0).astype(np.int32)
    return features | {"decoder_loss_weights": weights_BL}


def log_likelihoods(model, features):
    """By NumPy, of the model's logits."""
    logits_BLV = model(place_features(features)).numpy().astype(np.float64)
    log_p_BLV = logits_BLV - np.log(np.exp(logits_BLV).sum(axis=-1, keepdims=True))
    targets_BL1 = features["decoder_target_tokens"][..., None]
    log_p_BL = np.take_along_axis(log_p_BLV, targets_BL1, axis=-1)[..., 0]
    return (log_p_BL * features["decoder_loss_weights"]).sum(axis=1)


@pytest.fixture(scope="module")
def expected():
    return log_likelihoods(tiny_model(expert_frequency=0), features_with_weights())


LAYOUTS = (("batch:1", "batch:batch"), ("batch:4,model:2", "batch:batch,d_ff:model"))


@pytest.mark.parametrize("layout", LAYOUTS, ids=[shape for shape, _ in LAYOUTS])
def test_a_score_is_the_sum_of_the_targets_log_probabilities(expected, layout):
    with using(layout) as mesh:
        found = Scorer(tiny_model(expert_frequency=0), mesh)(features_with_weights())
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_score_does_not_depend_on_batch_mates_and_is_0_without_a_target():
    features = features_with_weights()
    alone = {name: np.zeros_like(features[name]) for name in FEATURES}
    for name in FEATURES:
        alone[name][:1] = features[name][:1]
    with using(("batch:1", "batch:batch")) as mesh:
        scorer = Scorer(tiny_model(), mesh)
        together, found = scorer(features), scorer(alone)
    np.testing.assert_allclose(found[0], together[0], rtol=1e-5)
    np.testing.assert_array_equal(found[1:], 0)


def test_padding_behind_all_examples_changes_no_score():
    features = features_with_weights()
    longer = {name: np.pad(features[name], [(0, 0), (0, 24)]) for name in FEATURES}
    with using(("batch:4", "batch:batch,experts:batch")) as mesh:
        scorer = Scorer(tiny_model(), mesh)
        np.testing.assert_allclose(scorer(longer), scorer(features), rtol=1e-5)

import functools

import numpy as np
import pytest

from switch_tf.errors import UserError
from switch_tf.layers.router import SwitchRouter
from switch_tf.mesh import to_numpy
from switch_tf.optimizers.adafactor import Adafactor
from switch_tf.optimizers.schedules import constant
from switch_tf.training.microbatches import Microbatches
from switch_tf.training.step import TrainStep
from tests.helpers import place_features, random_features, tiny_model, using

LAYOUTS = {
    "one device": ("batch:1", "batch:batch"),
    "experts with data": ("batch:4", "batch:batch,experts:batch"),
    "with a model dimension": (
        "batch:2,model:2",
        "batch:batch,experts:batch,heads:model,d_ff:model,vocab:model",
    ),
}


@functools.cache
def trained(
    layout,
    microbatches,
    factor,
    router_z_loss,
    dropout_rate=0.0,
    rematerialize=False,
):
    """Figures of three steps, and the weights and sums after them.

    Groups are sequences or halves of one, so that a part has the groups of the whole. Parts have
    unequal numbers of tokens.
    """
    with using(LAYOUTS[layout]) as mesh:
        model = tiny_model(
            group_size=8,
            router=functools.partial(SwitchRouter, jitter=0.0, z_loss_coef=router_z_loss),
            num_layers=1,
            expert_frequency=1,
            dropout_rate=dropout_rate,
            rematerialize=rematerialize,
        )
        optimizer = Adafactor(constant(0.01))
        optimizer.build(model.trainable_variables)
        step = TrainStep(model, optimizer, mesh, 0, 1e-4, factor, microbatches)
        figures = []
        for i in range(3):
            arrays = random_features(seed=i)
            # The last two of eight texts are short: parts of 3 and of 30 tokens, so to speak.
            arrays["encoder_input_tokens"][-2:, 1:] = 0
            arrays["decoder_target_tokens"][-2:, 1:] = 0
            # Neither 0 nor 1.
            weights_BL = np.where(arrays["decoder_target_tokens"] > 0, 0.75, 0.0)
            arrays["decoder_loss_weights"] = weights_BL.astype(np.float32)
            figures.append(step(place_features(arrays), i))
        weights = {v.path: to_numpy(v) for v in model.trainable_variables}
        return figures, weights, step


REAL_TOKENS, PER_SEQUENCE = ("NUM_REAL_TARGET_TOKENS", 0.1), ("AVERAGE_PER_SEQUENCE", 0.0)


@pytest.mark.parametrize(
    "layout, parts, objective",
    [
        ("one device", 2, REAL_TOKENS),
        ("one device", 8, REAL_TOKENS),
        ("one device", 8, PER_SEQUENCE),
        ("experts with data", 2, REAL_TOKENS),
        ("experts with data", 2, PER_SEQUENCE),
        ("with a model dimension", 4, REAL_TOKENS),
        ("with a model dimension", 4, PER_SEQUENCE),
    ],
)
def test_parts_give_the_updates_of_the_whole(layout, parts, objective):
    whole, weights, _ = trained(layout, 1, *objective)
    figures, weights_of_parts, _ = trained(layout, parts, *objective)
    for one, other in zip(whole, figures, strict=True):
        for name in ("loss", "nlp", "z_loss", "tokens", "accuracy", "learning_rate"):
            assert other[name] == pytest.approx(one[name], rel=2e-5), name
        for layer, expected in one["routing"].items():
            np.testing.assert_allclose(
                other["routing"][layer]["load_E"], expected["load_E"], atol=1e-6
            )
            for name in ("load_balancing_loss", "weighted_loss", "dropped", "max_logit"):
                assert other["routing"][layer][name] == pytest.approx(expected[name], rel=1e-4)
    for path, expected in weights.items():
        scale = np.abs(expected).max()
        np.testing.assert_allclose(weights_of_parts[path], expected, atol=2e-5 * scale, rtol=0)


@pytest.mark.parametrize("layout, parts", [("one device", 8), ("experts with data", 2)])
def test_parts_whose_activations_are_made_again_give_them_too(layout, parts):
    expected = trained(layout, 1, *REAL_TOKENS)
    found = trained(layout, parts, *REAL_TOKENS, rematerialize=True)
    for one, other in zip(expected[0], found[0], strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=2e-5)
    for path, value in expected[1].items():
        scale = np.abs(value).max()
        np.testing.assert_allclose(found[1][path], value, atol=2e-5 * scale, rtol=0)


def test_over_positions_the_routers_losses_are_means_over_parts_as_in_mesh_tensorflow():
    """Each part divides its z-loss by its own tokens, however many."""
    whole = random_features(batch=4)
    whole["encoder_input_tokens"][:2, 3:] = 0
    whole["decoder_loss_weights"] = (whole["decoder_target_tokens"] > 0).astype(np.int32)
    halves = [{name: x[rows] for name, x in whole.items()} for rows in np.split(np.arange(4), 2)]

    def figures(coefficient, arrays, microbatches=1):
        router = functools.partial(
            SwitchRouter, jitter=0.0, z_loss_coef=coefficient, load_balancing_over="positions"
        )
        sparse = {"encoder_sparse_layers": (0,), "decoder_sparse_layers": ()}
        model = tiny_model(group_size=8, router=router, num_layers=1, **sparse)
        optimizer = Adafactor(constant(0.0))
        optimizer.build(model.trainable_variables)
        step = TrainStep(model, optimizer, mesh, 0, microbatches=microbatches)
        return step(place_features(arrays), 0)

    with using(LAYOUTS["one device"]) as mesh:
        of_halves = [
            layer["z_loss"] for half in halves for layer in figures(0.0, half)["routing"].values()
        ]
        added = figures(1.0, whole, 2)["loss"] - figures(0.0, whole, 2)["loss"]
    assert of_halves[0] != pytest.approx(of_halves[1], rel=1e-3)
    assert added == pytest.approx(np.mean(of_halves), rel=1e-4)


def test_sums_lie_where_their_variables_lie_and_start_anew():
    with using(LAYOUTS["experts with data"]):
        step = trained("experts with data", 2, *REAL_TOKENS)[2]
        sums = step._parts.sums
        for total, variable in zip(sums, step._model.trainable_variables, strict=True):
            assert total.layout.sharding_specs == variable.value.layout.sharding_specs
            assert not to_numpy(total).any()


def test_a_run_with_dropout_made_again_has_the_same_losses():
    runs = [
        trained.__wrapped__("one device", 2, *REAL_TOKENS, dropout_rate=0.5)[0] for _ in range(2)
    ]
    assert [f["loss"] for f in runs[0]] == [f["loss"] for f in runs[1]]
    assert runs[0][0]["loss"] != trained("one device", 2, *REAL_TOKENS)[0][0]["loss"]


def test_each_part_draws_noise_of_its_own():
    """Two parts of the same sequences: with the same noise, their losses would be one."""
    arrays = random_features(batch=2)
    arrays = {name: np.concatenate([x, x]) for name, x in arrays.items()}
    arrays["decoder_loss_weights"] = (arrays["decoder_target_tokens"] > 0).astype(np.int32)
    with using(LAYOUTS["one device"]) as mesh:
        model = tiny_model(group_size=8, num_layers=1, dropout_rate=0.5)
        optimizer = Adafactor(constant(0.0))
        optimizer.build(model.trainable_variables)
        step = TrainStep(model, optimizer, mesh, 0, microbatches=2)
        features = place_features(arrays)
        parts = [to_numpy(step._add_gradients(*step._arguments(features, 0, i))) for i in (0, 1)]
    losses = [step._figures.unpack(part)["step"]["loss"] for part in parts]
    assert losses[0] != losses[1]


def test_a_batch_that_does_not_divide_into_parts_is_told():
    with using(LAYOUTS["experts with data"]) as mesh:
        parts = Microbatches(3, mesh, [])
        with pytest.raises(UserError) as caught:
            parts.part(place_features(random_features(batch=16)), 0)
    assert str(caught.value) == (
        "BATCH_SIZE=16 cannot be divided into 3 micro-batches of whole examples on 4 devices: "
        "change BATCH_SIZE or TrainStep.microbatches"
    )

"""Agreement with Hugging Face's T5 and Switch Transformers, by arrays kept from a run of theirs."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file

from switch_tf.layers.context import collect
from switch_tf.layers.router import SwitchRouter
from switch_tf.layers.switch_ffn import SwitchFFN
from switch_tf.mesh import to_numpy
from switch_tf.models import transformer
from switch_tf.models.encoder_decoder import TransformerEncoderDecoder
from switch_tf.models.losses import cross_entropy
from tests.helpers import GOLDEN, compiled, error, features_of, place, place_features, put, using
from tests.hf_weights import ours

TOLERANCE = 1e-4
SIZES = dict(vocab_size=64, d_model=32, d_kv=16, num_heads=2, d_ff=64, num_layers=4)
MODEL = ("model:2", "d_ff:model,heads:model,vocab:model")
EXPERTS = ("model:2", "experts:model")
CASES = {
    "hf_switch": ("hf_switch", None),
    "hf_switch on model:2": ("hf_switch", MODEL),
    "hf_switch with experts on model:2": ("hf_switch", EXPERTS),
    "hf_switch_tight": ("hf_switch_tight", None),
    "hf_t5_v1_1": ("hf_t5_v1_1", None),
}
CAPACITY = {"hf_switch": 20, "hf_switch_tight": 3}


def build(folder):
    if folder == "hf_t5_v1_1":
        model = TransformerEncoderDecoder(**SIZES, activation="geglu", tied_softmax=False)
    else:
        router = functools.partial(
            SwitchRouter, absolute_capacity=CAPACITY[folder], jitter=0.0, min_capacity=0
        )
        switch_ffn = functools.partial(
            SwitchFFN, 4, group_size=None, mask_padding=False, router=router
        )
        model = TransformerEncoderDecoder(**SIZES, expert_frequency=2, switch_ffn=switch_ffn)
    model.build()
    weights = load_file(GOLDEN / folder / "model.safetensors")
    for variable in model.trainable_variables:
        put(variable, ours(variable.path, tuple(variable.shape), weights))
    return model


def hf_pooled_aux_loss(routings):
    """Hugging Face's load-balancing loss: one histogram over the layers of a stack."""
    f_GE, p_GE = (
        tf.reduce_mean(tf.concat(values, axis=1), axis=1)
        for values in zip(*((r.chosen_GSE, r.probabilities_GSE) for r in routings), strict=True)
    )
    return routings[0].num_experts * tf.reduce_mean(tf.reduce_sum(f_GE * p_GE, axis=-1))


@pytest.fixture(scope="module", params=CASES)
def run(request):
    """The arrays of Hugging Face's run, and ours by the same names."""
    folder, layout = CASES[request.param]
    with np.load(GOLDEN / folder / "outputs.npz") as arrays:
        theirs = dict(arrays)
    labels, hidden = theirs["labels"], []
    features = features_of(theirs["input_ids"], np.maximum(labels, 0))
    with pytest.MonkeyPatch.context() as patch, using(layout):
        patch.setattr(transformer, "see", lambda path, x_BLM: hidden.append((path, x_BLM)))
        model = build(folder)
        variables = model.trainable_variables

        @compiled
        def step(features, weights):
            hidden.clear()
            with tf.GradientTape() as tape, collect() as reports:
                logits = model(features, training=True)
                targets = features["decoder_target_tokens"]
                entropy, _, _, tokens, _ = cross_entropy(logits, targets, weights)
                loss = entropy / tokens
            blocks = [x_BLM for path, x_BLM in hidden if "/encoder/" in path]
            found = {f"encoder_hidden_{i + 1}": x for i, x in enumerate(blocks[:-1])}
            found |= {"logits": logits, "cross_entropy": loss}
            found["encoder_hidden_0"] = model.embedding(features["encoder_input_tokens"])
            found["encoder_last_hidden"] = model.encode(features)
            for stack in ("encoder", "decoder") if reports else ():
                routings = [r.routing for r in reports if f"/{stack}/" in r.name]
                found[f"{stack}_aux_loss"] = hf_pooled_aux_loss(routings)
                found[f"{stack}_z_loss"] = tf.reduce_mean(
                    [tf.square(tf.reduce_logsumexp(r.logits_GSE, axis=-1)) for r in routings]
                )
                found[f"{stack}_balance"] = tf.reduce_mean(
                    [r.load_balancing_loss_G for r in routings]
                )
            kept = [tf.cast(report.routing.kept_GS, tf.float32) for report in reports]
            gradients = tape.gradient(loss, [variable.value for variable in variables])
            # An untied embedding has a sparse one.
            gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
            return found, gradients, kept

        weights = place((labels >= 0).astype(np.float32), ("batch",))
        found, gradients, kept = step(place_features(features), weights)
        found = {name: to_numpy(value) for name, value in found.items()}
        gradients = {v.path: to_numpy(g) for v, g in zip(variables, gradients, strict=True)}
        kept = [to_numpy(value) for value in kept]
    return folder, theirs, found, gradients, kept


def test_logits_and_loss_agree(run):
    _, theirs, found, _, _ = run
    assert error(found["logits"], theirs["logits"]) < TOLERANCE
    assert error(found["cross_entropy"], theirs["cross_entropy"]) < TOLERANCE


def test_the_routers_losses_are_those_that_are_pooled_there(run):
    """Pooled, imbalances of layers cancel: the mean of the layers' own losses is larger."""
    folder, theirs, found, _, _ = run
    stacks = ("encoder", "decoder") if folder in CAPACITY else ()
    for stack in stacks:
        for name in (f"{stack}_aux_loss", f"{stack}_z_loss"):
            assert error(found[name], theirs[name]) < TOLERANCE, name
        assert found[f"{stack}_balance"] > 1.1 * theirs[f"{stack}_aux_loss"]


def test_every_hidden_state_of_the_encoder_agrees(run):
    _, theirs, found, _, _ = run
    names = [f"encoder_hidden_{i}" for i in range(4)] + ["encoder_last_hidden"]
    assert {name for name in names if error(found[name], theirs[name]) >= TOLERANCE} == set()


def test_gradients_of_all_parameters_agree(run):
    folder, theirs, _, gradients, _ = run
    weights = load_file(GOLDEN / folder / "model.safetensors")
    # PyTorch has no gradient for an expert that no token visited.
    expected = {k: theirs.get(f"grad/{k}", np.zeros_like(v)) for k, v in weights.items()}
    absent = {k for k in weights if f"grad/{k}" not in theirs}
    assert all(".mlp.experts." in k for k in absent) and len(absent) < len(weights) / 10
    if "model/softmax/kernel" in gradients:
        # One tensor there, two here.
        gradients = dict(gradients)
        gradients["model/embedding/table"] = (
            gradients["model/embedding/table"] + gradients.pop("model/softmax/kernel").T
        )
    errors = {path: error(g, ours(path, g.shape, expected)) for path, g in gradients.items()}
    assert {path: e for path, e in errors.items() if e >= TOLERANCE} == {}
    assert sum(g.size for g in gradients.values()) == sum(g.size for g in weights.values())


def test_tokens_are_dropped_where_the_capacity_is_small(run):
    folder, _, _, _, kept = run
    assert len(kept) == (4 if folder in CAPACITY else 0)
    if kept:
        dropped = sum(float((1.0 - layer).sum()) for layer in kept)
        assert (dropped > 0) == (folder == "hf_switch_tight")

import functools

import numpy as np
import pytest
import tensorflow as tf

from switch_tf.errors import UserError
from switch_tf.layers import context
from switch_tf.layers.measuring_router import WorstCaseRouter
from switch_tf.layers.router import SwitchRouter
from switch_tf.layers.switch_attention import SwitchAttention, SwitchProjection
from switch_tf.layers.switch_ffn import SwitchFFN
from switch_tf.mesh import to_numpy
from switch_tf.models.encoder_decoder import sparse_layers
from switch_tf.models.losses import cross_entropy
from switch_tf.models.transformer import Residual
from tests.helpers import (
    VOCAB,
    compiled,
    features_of,
    part_shapes,
    place_features,
    random_features,
    tiny_model,
    using,
)

MIXED = "batch:batch,experts:batch,d_ff:model,heads:model,vocab:model"
# Name -> mesh and rules, and what a device holds of some weights of `tiny_model`, by end of path.
MESHES = {
    "batch:1": (("batch:1", "batch:batch"), {"experts/wi": (8, 16, 32), "ffn/wi": (16, 32)}),
    "batch:8": (
        ("batch:8", "batch:batch,experts:batch"),
        {"experts/wi": (1, 16, 32), "experts/wo": (1, 32, 16), "ffn/wi": (16, 32)},
    ),
    "batch:2,model:4": (
        ("batch:2,model:4", MIXED),
        {
            "experts/wi": (4, 16, 8),
            "experts/wo": (4, 8, 16),
            "ffn/wi": (16, 8),
            "ffn/wo": (8, 16),
            "attention/query": (16, 2, 4),
            "attention/output": (2, 4, 16),
            "embedding/table": (16, 16),
            "relative_position_bias/table": (32, 2),
        },
    ),
    "model:4": (
        ("model:4", "experts:model,heads:model"),
        {"experts/wi": (2, 16, 32), "attention/value": (16, 2, 4), "ffn/wi": (16, 32)},
    ),
}


@pytest.fixture(scope="module")
def initial():
    """The initial values without a mesh, by path."""
    return {v.path: to_numpy(v) for v in tiny_model(seed=3).trainable_variables}


@pytest.fixture(scope="module", params=MESHES)
def laid_out(request):
    """A model on a mesh, of the seed of `initial`, and the part shapes expected of it."""
    layout, expected = MESHES[request.param]
    with using(layout):
        return tiny_model(seed=3), expected


def test_one_seed_gives_bit_identical_weights_on_every_mesh(laid_out, initial):
    found = {v.path: to_numpy(v) for v in laid_out[0].trainable_variables}
    assert found.keys() == initial.keys()
    assert [p for p in initial if found[p].tobytes() != initial[p].tobytes()] == []


def test_no_device_holds_more_than_its_shard(laid_out):
    model, expected = laid_out
    for end, shape in expected.items():
        weights = [v for v in model.trainable_variables if v.path.endswith("/" + end)]
        assert weights and all(part_shapes(v) == {shape} for v in weights), end


def test_the_scale_of_the_initialisation_holds_everywhere_but_in_the_embedding():
    """Weights of one seed are in proportion to the root of s (paper, Sec. 3.5)."""
    projection = functools.partial(SwitchProjection, 4)
    options = {
        "expert_frequency": 2,
        "tied_softmax": False,
        "activation": "geglu",
        "switch_attention": functools.partial(SwitchAttention, projection=projection),
    }
    one, tenth = (tiny_model(4, init_scale=s, **options).trainable_variables for s in (1.0, 0.1))
    others = set()
    for large, small in zip(one, tenth, strict=True):
        ratio = np.linalg.norm(small.numpy()) / np.linalg.norm(large.numpy())
        if ratio != pytest.approx(0.1**0.5, rel=1e-5):
            assert ratio == 1.0, large.path
            others.add(large.path.rpartition("/")[2])
    assert others == {"table", "scale"}


def test_another_seed_gives_other_weights(initial):
    for variable in tiny_model(seed=4).trainable_variables:
        same = to_numpy(variable).tobytes() == initial[variable.path].tobytes()
        assert same == variable.path.endswith("norm/scale"), variable.path


def test_no_two_weights_or_experts_are_alike(initial):
    drawn = {path: value for path, value in initial.items() if not path.endswith("norm/scale")}
    firsts = [value.flat[0] for value in drawn.values()]
    assert len(set(firsts)) == len(firsts)
    for path, value in drawn.items():
        if "/experts/" in path:
            assert len({expert.tobytes() for expert in value}) == 8


@pytest.mark.parametrize(
    "num_layers, frequency, expected",
    [
        (4, 0, ()),
        (4, 1, (0, 1, 2, 3)),
        (4, 2, (1, 3)),
        (5, 2, (1, 3)),
        (6, 3, (2, 5)),
        (1, 0, ()),
        (1, 1, (0,)),
        (1, 2, ()),
    ],
)
def test_every_nth_layer_is_sparse_counted_from_the_nth(num_layers, frequency, expected):
    assert sparse_layers(num_layers, frequency) == expected


def run(model, features, dropless=False):
    """(logits, Switch layers' paths) without a mesh; compiled as users run it."""
    paths = []

    @compiled
    def call(features):
        with context.collect() as reports, context.dropless(dropless):
            logits = model(features)
        paths.extend(report.name for report in reports)
        return logits

    return call(features).numpy(), paths


@pytest.mark.parametrize(
    "num_layers, frequency, sparse", [(1, 0, []), (1, 1, [0]), (1, 2, []), (2, 1, [0, 1])]
)
def test_sparse_layers_stand_in_both_stacks(num_layers, frequency, sparse):
    model = tiny_model(num_layers=num_layers, expert_frequency=frequency)
    logits, paths = run(model, random_features(batch=2))
    assert logits.shape == (2, 8, VOCAB) and np.isfinite(logits).all()
    stacks = ("encoder", "decoder")
    ends = [f"{stack}/layer_{i}/feed_forward/switch_ffn" for stack in stacks for i in sparse]
    assert paths == [f"model/{end}" for end in ends]


def test_the_sparse_layers_of_each_stack_may_be_listed():
    model = tiny_model(num_layers=3, encoder_sparse_layers=(0, 2), decoder_sparse_layers=())
    _, paths = run(model, random_features(batch=2))
    ends = [f"layer_{i}/feed_forward/switch_ffn" for i in (0, 2)]
    assert paths == [f"model/encoder/{end}" for end in ends]


@pytest.mark.parametrize("frequency", [0.5, -1])
def test_a_frequency_that_is_none_is_told(frequency):
    with pytest.raises(
        UserError, match=f"expert_frequency={frequency}: give 0 for none, 1 for all"
    ):
        tiny_model(expert_frequency=frequency)


def test_a_sparse_layer_that_is_not_there_is_named():
    with pytest.raises(
        UserError, match=r"decoder_sparse_layers=\(2,\): there is no layer 2; .* 0 to 1"
    ):
        tiny_model(num_layers=2, decoder_sparse_layers=(2,))


# Two pairs of texts in one row, and each pair in a row of its own.

PAIRS = [([5, 9, 33, 7, 1], [8, 21, 1]), ([40, 12, 6, 1], [11, 50, 51, 30, 1])]
ENCODER_LENGTH, DECODER_LENGTH = 12, 10


def packed_features():
    features = dict.fromkeys(("encoder_input_tokens", "encoder_segment_ids"))
    features = {name: np.zeros([1, ENCODER_LENGTH], np.int32) for name in features}
    names = ("decoder_target_tokens", "decoder_input_tokens", "decoder_segment_ids")
    features |= {name: np.zeros([1, DECODER_LENGTH], np.int32) for name in names}
    encoder = decoder = 0
    for segment, (inputs, targets) in enumerate(PAIRS, start=1):
        at = slice(encoder, encoder := encoder + len(inputs))
        features["encoder_input_tokens"][0, at] = inputs
        features["encoder_segment_ids"][0, at] = segment
        at = slice(decoder, decoder := decoder + len(targets))
        features["decoder_target_tokens"][0, at] = targets
        # Each text starts with the start token, as SeqIO packs them.
        features["decoder_input_tokens"][0, at] = [0, *targets[:-1]]
        features["decoder_segment_ids"][0, at] = segment
    return features


def unpacked_features():
    encoder = np.zeros([2, ENCODER_LENGTH], np.int32)
    target = np.zeros([2, DECODER_LENGTH], np.int32)
    for row, (inputs, targets) in enumerate(PAIRS):
        encoder[row, : len(inputs)] = inputs
        target[row, : len(targets)] = targets
    return features_of(encoder, target)


def loss_of(logits, features):
    targets = features["decoder_target_tokens"]
    return float(cross_entropy(logits, targets, targets > 0)[0])


@pytest.mark.parametrize("frequency", [0, 1])
def test_packed_and_unpacked_texts_have_the_same_loss_without_dropping(frequency):
    model = tiny_model(num_layers=2 - frequency, expert_frequency=frequency)
    packed, unpacked = packed_features(), unpacked_features()
    logits, _ = run(model, packed, dropless=True)
    apart, _ = run(model, unpacked, dropless=True)
    first, second = (len(targets) for _, targets in PAIRS)
    np.testing.assert_allclose(logits[0, :first], apart[0, :first], atol=2e-5)
    np.testing.assert_allclose(logits[0, first:][:second], apart[1, :second], atol=2e-5)
    assert loss_of(logits, packed) == pytest.approx(loss_of(apart, unpacked), rel=1e-5)
    # Without the segment ids the texts see each other.
    mixed = {name: value for name, value in packed.items() if "segment" not in name}
    logits, _ = run(model, mixed, dropless=True)
    assert loss_of(logits, packed) != pytest.approx(loss_of(apart, unpacked), rel=1e-3)


@pytest.mark.parametrize("frequency, room", [(0, 1.0), (1, 8.0), (1, 0.5)])
def test_what_follows_a_position_does_not_change_its_logits(frequency, room):
    # Groups of one sequence: a token beyond another's end is routed apart from it.
    router = functools.partial(SwitchRouter, eval_capacity_factor=room)
    sizes = {"num_layers": 2 - frequency, "expert_frequency": frequency}
    model = tiny_model(group_size=None, router=router, **sizes)
    features = random_features(batch=2)
    suffix = {name: value.copy() for name, value in features.items()}
    suffix["decoder_input_tokens"][:, 5:] = [[3, 4, 60]]
    suffix["decoder_target_tokens"][:, 5:] = [[9, 0, 0]]
    before, _ = run(model, features)
    after, _ = run(model, suffix)
    np.testing.assert_allclose(after[:, :5], before[:, :5], atol=1e-6)
    assert np.abs(after[:, 5:] - before[:, 5:]).max(axis=-1).min() > 1e-3


def test_a_text_does_not_depend_on_those_it_is_evaluated_with():
    # Groups of one sequence, and too little room.
    router = functools.partial(SwitchRouter, eval_capacity_factor=0.5)
    model = tiny_model(group_size=None, router=router)
    features = random_features(batch=4)
    together, _ = run(model, features)
    alone, _ = run(model, {name: value[1:2] for name, value in features.items()})
    np.testing.assert_allclose(together[1:2], alone, atol=1e-5)


def test_every_earlier_target_is_seen():
    model = tiny_model(expert_frequency=0)
    features = random_features(batch=2)
    first = {name: value.copy() for name, value in features.items()}
    first["decoder_input_tokens"][:, 1] = 62
    change = np.abs(run(model, first)[0] - run(model, features)[0]).max(axis=-1)
    assert (change[:, 0] == 0.0).all() and (change[:, 1:] > 1e-4).all()


@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-5), ("bfloat16", 2e-2)])
def test_more_padding_changes_no_token(dtype, tolerance):
    model = tiny_model(num_layers=1, expert_frequency=1, dtype=dtype)
    features = random_features(batch=2)
    longer = {name: np.pad(value, [(0, 0), (0, 8)]) for name, value in features.items()}
    before, _ = run(model, features, dropless=True)
    after, _ = run(model, longer, dropless=True)
    tokens = features["decoder_target_tokens"] > 0
    assert 0 < tokens.sum() < tokens.size
    np.testing.assert_allclose(after[:, :8][tokens], before[tokens], atol=tolerance)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-5), ("bfloat16", 2e-2)])
def test_more_padding_changes_no_token_at_a_fixed_capacity_for_each_sequence(dtype, tolerance):
    router = functools.partial(SwitchRouter, absolute_capacity=1)
    sizes = {"num_layers": 1, "expert_frequency": 1, "group_size": None}
    model = tiny_model(4, router=router, dtype=dtype, **sizes)
    features = random_features(batch=2)
    longer = {name: np.pad(value, [(0, 0), (0, 8)]) for name, value in features.items()}
    before, reports = run(model, features)
    after, _ = run(model, longer)
    tokens = features["decoder_target_tokens"] > 0
    np.testing.assert_allclose(after[:, :8][tokens], before[tokens], atol=tolerance)
    dropless, _ = run(model, features, dropless=True)
    assert np.abs(dropless - before).max() > 1e-2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", [None, ("batch:4", "batch:batch,experts:batch")])
def test_the_first_tokens_of_a_group_that_are_no_padding_stay(dtype, layout):
    """All tokens want expert 0, in a training step: which of them are dropped, by name."""
    features = random_features()
    router = functools.partial(WorstCaseRouter, absolute_capacity=3)
    with using(layout):
        model = tiny_model(4, group_size=8, router=router, dtype=dtype)
        variables = [variable.value for variable in model.trainable_variables]

        @compiled
        def run(features):
            with tf.GradientTape() as tape, context.collect() as reports:
                loss = tf.reduce_mean(model(features, training=True) ** 2)
            kept = [tf.cast(report.routing.kept_GS, tf.float32) for report in reports]
            return kept, tape.gradient(loss, variables)[0]

        kept, _ = run(place_features(features))
    for found_GS, name in zip(kept, ("encoder_input_tokens", "decoder_target_tokens"), strict=True):
        tokens_GS = features[name].reshape(-1, 8) > 0
        places_GS = tokens_GS.cumsum(axis=1)
        np.testing.assert_array_equal(to_numpy(found_GS), tokens_GS & (places_GS <= 3))


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_a_dropped_token_leaves_its_block_as_it_came(dtype):
    router = functools.partial(WorstCaseRouter, absolute_capacity=2)
    ffn = SwitchFFN(4, 16, router=router, name="ffn", dtype=dtype)
    branch = Residual(ffn, name="feed_forward", dtype=dtype)
    x_BLM = np.random.default_rng(0).normal(size=(2, 6, 8)).astype(np.float32)
    x_BLM = tf.cast(x_BLM, branch.compute_dtype)
    branch.build(x_BLM.shape)
    change_BLM = compiled(branch)(x_BLM, training=True) - x_BLM
    changed_BL = tf.reduce_any(change_BLM != 0, axis=-1).numpy()
    assert changed_BL.tolist() == [[True, True, False, False, False, False]] * 2


def test_a_bfloat16_model_has_float32_logits_near_the_float32_ones():
    features = random_features(batch=2)
    exact, _ = run(tiny_model(expert_frequency=0), features)
    rounded, _ = run(tiny_model(expert_frequency=0, dtype="bfloat16"), features)
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - exact).max() < 0.1 * np.abs(exact).max()

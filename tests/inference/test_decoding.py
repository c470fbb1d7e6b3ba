import functools

import numpy as np
import pytest

from switch_tf.inference.decoding import EOS_ID, GreedyDecoder
from switch_tf.layers.context import collect, dropless
from switch_tf.layers.router import SwitchRouter
from switch_tf.mesh import to_numpy
from tests.helpers import GOLDEN, VOCAB, compiled, place_features, put, tiny_model, using
from tests.models.test_hf_parity import build

LENGTH = 11
# Mesh, rules, and most tokens routed together: two texts' or, while decoding, all four's.
LAYOUTS = {
    "batch:1": ("batch:1", "batch:batch", 24),
    "batch:2,model:2": ("batch:2,model:2", "batch:batch,experts:batch,d_ff:model,heads:model", 2),
}


def texts():
    """[4, 12] tokens; the second and third end in padding."""
    tokens = np.random.default_rng(0).integers(2, VOCAB, (4, 12)).astype(np.int32)
    tokens[1, 8:] = tokens[2, 3:] = 0
    return tokens


def teacher_forced(model, tokens, decoded):
    """Logits [batch, LENGTH, vocab] of the whole decoded text at once."""
    shifted = np.pad(decoded[:, :-1], [(0, 0), (1, 0)])
    features = {
        "encoder_input_tokens": tokens,
        "decoder_input_tokens": shifted,
        "decoder_target_tokens": np.ones_like(shifted),
    }

    @compiled
    def run(features):
        with collect(), dropless():
            return model(features)

    return to_numpy(run(place_features(features)))


def swap_with_eos(model, token):
    """Makes the model say "end of sequence" where it said `token`, and the other way round."""
    kernel = to_numpy(model.softmax.kernel).copy()
    kernel[:, [token, EOS_ID]] = kernel[:, [EOS_ID, token]]
    put(model.softmax.kernel, kernel)


@pytest.fixture(scope="module", params=LAYOUTS)
def run(request):
    """What a model decodes from `texts`, from variations of them, and once its EOS is another."""
    *layout, group_size = LAYOUTS[request.param]
    # Room for few tokens in groups of several texts: they would meet, were tokens dropped.
    router = functools.partial(SwitchRouter, eval_capacity_factor=0.5)
    tokens, found = texts(), {}
    with using(layout) as mesh:
        model = tiny_model(4, group_size, router, tied_softmax=False, seed=1)
        decoder = GreedyDecoder(model, mesh, LENGTH)
        found["texts"] = decoder(tokens)
        found["logits"] = teacher_forced(model, tokens, found["texts"])
        found["reversed"] = decoder(tokens[::-1])
        found["alone"] = decoder(np.concatenate([tokens[:1], np.zeros([3, 12], np.int32)]))
        found["padded"] = decoder(np.pad(tokens, [(0, 0), (0, 8)]))
        found["end"] = int(found["texts"][0, 2])
        swap_with_eos(model, found["end"])
        found["ended"] = decoder(tokens)
        found["all ended"] = decoder(np.repeat(tokens[:1], 4, axis=0))
    return found


def test_padding_behind_all_texts_changes_no_output(run):
    np.testing.assert_array_equal(run["padded"], run["texts"])


def test_the_model_says_various_things(run):
    # Else the tests below would hold little.
    assert len(np.unique(run["texts"])) >= 6
    assert len({row.tobytes() for row in run["texts"]}) == 4
    assert not np.isin(run["texts"], [0, EOS_ID]).any()


def test_each_token_is_the_most_probable_after_those_before(run):
    assert run["texts"].dtype == np.int32 and run["texts"].shape == (4, LENGTH)
    np.testing.assert_array_equal(run["texts"], run["logits"].argmax(-1))


def test_a_text_does_not_depend_on_its_batch_mates(run):
    np.testing.assert_array_equal(run["reversed"], run["texts"][::-1])
    np.testing.assert_array_equal(run["alone"][0], run["texts"][0])


def test_rows_behind_the_vocabulary_are_never_taken():
    """32,100 pieces in 32,128 rows: the rest has values of its own, and stands for nothing."""
    with using(("batch:2,model:2", "batch:batch,vocab:model")) as mesh:
        model = tiny_model(4, 2, tied_softmax=False)
        kernel_MV = to_numpy(model.softmax.kernel).copy()
        # The unused rows would win at every position.
        kernel_MV[:, VOCAB - 4 :] = kernel_MV[:, :4] * 100.0
        put(model.softmax.kernel, kernel_MV)
        free = GreedyDecoder(model, mesh, LENGTH)(texts())
        decoded = GreedyDecoder(model, mesh, LENGTH, VOCAB - 4)(texts())
    assert (free >= VOCAB - 4).any()
    assert (decoded < VOCAB - 4).all() and (decoded > 0).any()


def test_beyond_the_largest_distance_cached_decoding_is_teacher_forcing():
    """Relative positions of more than 128 tokens, all buckets among them."""
    with using(("batch:1", "batch:batch")) as mesh:
        model = tiny_model(4, 24, tied_softmax=False, seed=1, num_layers=1, expert_frequency=1)
        table = np.random.default_rng(0).normal(size=(32, 8)).astype(np.float32)
        put(model.decoder.position_bias.table, table)
        # It says neither padding nor an end: of 62 other logits one is above 0.
        kernel_MV = to_numpy(model.softmax.kernel).copy()
        kernel_MV[:, :2] = 0.0
        put(model.softmax.kernel, kernel_MV)
        tokens = texts()[:1]
        decoded = GreedyDecoder(model, mesh, 140)(tokens)
        assert not np.isin(decoded, [0, EOS_ID]).any()
        logits = teacher_forced(model, tokens, decoded)
    np.testing.assert_array_equal(decoded, logits.argmax(-1))


def test_behind_the_end_of_a_text_there_is_zero_and_the_others_go_on(run):
    expected = run["texts"].copy()
    expected[expected == run["end"]] = EOS_ID
    for row in expected:
        ends = np.flatnonzero(row == EOS_ID)
        if ends.size:
            row[ends[0] + 1 :] = 0
    # The first text ends, one at least does not.
    assert (expected[0] == EOS_ID).any() and not (expected == EOS_ID).any(axis=1).all()
    np.testing.assert_array_equal(run["ended"], expected)


def test_where_all_texts_end_early_the_length_stays(run):
    assert run["all ended"].shape == (4, LENGTH)
    np.testing.assert_array_equal(run["all ended"], np.repeat(run["ended"][:1], 4, axis=0))
    assert (run["all ended"][:, 3:] == 0).all()


# Dropping nothing is what theirs did: their 20 slots an expert and sequence hold all 20 tokens.
@pytest.mark.parametrize("folder", ["hf_t5_v1_1", "hf_switch"])
def test_greedy_decoding_is_hugging_faces(folder):
    with np.load(GOLDEN / folder / "outputs.npz") as arrays:
        inputs, theirs = arrays["input_ids"].astype(np.int32), arrays["greedy"]
    assert (theirs[:, 0] == 0).all() and len(np.unique(theirs)) > 3
    with using(("batch:1", "batch:batch")) as mesh:
        ours = GreedyDecoder(build(folder), mesh, theirs.shape[1] - 1)(inputs)
    # Theirs begins with the start token.
    np.testing.assert_array_equal(ours, theirs[:, 1:])

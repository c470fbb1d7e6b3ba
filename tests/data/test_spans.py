import dataclasses
import functools

import gin
import numpy as np
import pytest
import seqio
import tensorflow as tf
from t5.data import preprocessors

from switch_tf.data import features, spans
from switch_tf.data.spans import Spans
from switch_tf.errors import UserError
from tests.data import cached_tasks
from tests.helpers import task_data

T5 = Spans()
NUMBERS = [(0.15, 3.0), (0.15, 1.0), (0.1, 8.0), (0.35, 2.5), (0.5, 3.0), (0.85, 32.0)]


def told(spans, inputs, targets, sentinels=100):
    with pytest.raises(UserError) as raised:
        spans.check({"inputs": inputs, "targets": targets}, sentinels)
    return str(raised.value)


@pytest.mark.parametrize("density, length", NUMBERS)
def test_pieces_are_as_long_as_t5s(density, length):
    for inputs in [*range(1, 70), *range(100, 2100, 397)]:
        theirs, _ = preprocessors.random_spans_helper(inputs, density, length, 1, 1)
        assert Spans(density, length).t5_piece(inputs) == theirs


@pytest.mark.parametrize("density, length", NUMBERS)
def test_what_a_piece_becomes_is_what_t5s_mask_makes_of_it(density, length):
    """The mask rounds in float32, and of 90 tokens of 0.35 to 31, where its count has 32."""
    ours = Spans(density, length)
    for tokens in [*range(2, 40), 90, 190, 567, 1430]:
        seeds = tf.constant([[tokens, 1], [tokens, 2]])
        mask = preprocessors.random_spans_noise_mask(tokens, density, seeds, length).numpy()
        starts = np.count_nonzero(mask & ~np.pad(mask, (1, 0))[:-1])
        assert [int(n) for n in ours.of(np.array(tokens))] == [
            np.count_nonzero(mask),
            np.count_nonzero(~mask),
            starts,
        ]
        assert ours.sentinels(tokens) == starts


def test_pieces_of_the_usual_lengths_are_t5s():
    for inputs, targets in ((512, 114), (128, 40), (64, 20), (1024, 229)):
        assert T5.check({"inputs": inputs, "targets": targets}, 100) == T5.t5_piece(inputs)


@pytest.mark.parametrize("roll", [False, True])
@pytest.mark.parametrize("density, length", NUMBERS)
def test_no_piece_becomes_more_than_has_room(density, length, roll):
    ours = Spans(density, length, roll)
    for inputs in [*range(4, 40), 100, 1288]:
        lengths = {"inputs": inputs, "targets": 100 * inputs}
        longest = ours.check(lengths, 10_000)
        assert 2 <= longest <= ours.t5_piece(inputs)
        found = [ours.lengths(tokens) for tokens in range(2, longest + 1)]
        assert max(f[0] for f in found) <= inputs
        # And no fewer targets than needed pass.
        needed = max(f[1] for f in found)
        if not roll:
            assert ours.check(lengths | {"targets": needed}, 10_000)
            told(ours, inputs, needed - 1, 10_000)
        assert ours.piece(lengths | {"targets": needed}) == longest


def test_rolled_pieces_are_cut_to_t5s_own_lengths():
    """Of 567 tokens they would have 115 targets."""
    rolled = Spans(random_roll=True)
    longest = rolled.check({"inputs": 512, "targets": 114}, 100)
    assert longest == 563 and rolled.lengths(longest) == (509, 114)


def test_spans_without_text_between_them_are_one_line():
    """huggingface/transformers#22246; of 20 tokens, too, but first of three."""
    assert told(Spans(0.55, 1), 20, 30) == (
        "span_corruption.noise_density=0.55, span_corruption.mean_noise_span_length=1: in a piece "
        "of 3 tokens, 2 would be masked in 2 spans, leaving 1 to separate them: lower the density, "
        "or lengthen the spans"
    )
    with pytest.raises(tf.errors.InvalidArgumentError):
        preprocessors.random_spans_noise_mask(20, 0.55, tf.constant([[0, 1], [0, 2]]), 1)
    assert Spans(0.55, 2).check({"inputs": 20, "targets": 30}, 100)


def test_more_spans_than_sentinels_are_one_line_with_both_numbers():
    """OpenBA#2: T5 takes pieces of words for the sentinels that there are not."""
    assert Spans(0.5, 3.0).sentinels(1024) == 171
    assert told(Spans(0.5, 3.0), 684, 684) == (
        "TASK_FEATURE_LENGTHS['inputs']=684: the spans of 1024 tokens need 171 sentinels, but the "
        "vocabulary has 100, and ordinary pieces would be used for the rest: set it to at most "
        "403, raise span_corruption.mean_noise_span_length, or use a vocabulary with 171"
    )
    assert Spans(0.5, 3.0).check({"inputs": 403, "targets": 403}, 100)
    assert Spans(0.5, 3.0).check({"inputs": 684, "targets": 684}, 171)


def test_our_defaults_reach_their_hundred_sentinels_at_1809_inputs():
    assert T5.check({"inputs": 1809, "targets": 402}, 100)
    message = told(T5, 1810, 404)
    assert "need 101 sentinels, but the vocabulary has 100" in message
    assert "set it to at most 1809" in message
    # Rolled, one of the spans may be two.
    rolled = Spans(random_roll=True)
    assert "need 101 sentinels" in told(rolled, 1809, 403)


def test_room_for_too_few_targets_names_what_is_needed():
    assert told(T5, 512, 113) == (
        "TASK_FEATURE_LENGTHS['targets']=113 is too short: span corruption of 512 inputs needs 114 "
        "targets"
    )
    # T5's own count of these, 286, is less than its mask takes.
    assert told(T5, 1288, 286).endswith("span corruption of 1288 inputs needs 288 targets")


@pytest.mark.parametrize("inputs, roll", [(1, False), (2, False), (3, True)])
def test_room_for_no_part_of_a_text_is_one_line(inputs, roll):
    assert told(Spans(random_roll=roll), inputs, 9) == (
        f"TASK_FEATURE_LENGTHS={{'inputs': {inputs}, 'targets': 9}} is too short: span corruption "
        f"masks part of at least two tokens: give at least {3 + roll} inputs and {3 + roll} targets"
    )


@pytest.mark.parametrize("value", [0, 1, -0.1, 1.5, 15, float("nan"), True, "0.15", None])
def test_a_density_out_of_range_is_one_line(value):
    with pytest.raises(UserError) as raised:
        Spans(noise_density=value)
    assert str(raised.value).removesuffix("; a number is finite") == (
        f"span_corruption.noise_density={value!r}: give a share of the tokens, above 0 and below 1"
    )


@pytest.mark.parametrize("value", [0, 0.99, -3, float("inf"), float("nan"), True, "3", None])
def test_a_span_length_out_of_range_is_one_line(value):
    with pytest.raises(UserError) as raised:
        Spans(mean_length=value)
    assert str(raised.value).removesuffix("; a number is finite") == (
        f"span_corruption.mean_noise_span_length={value!r}: give a number of tokens of at least 1"
    )


def test_a_roll_that_is_neither_true_nor_false_is_one_line():
    with pytest.raises(UserError) as raised:
        Spans(random_roll="no")
    assert str(raised.value) == ("random_spans_noise_mask.random_roll='no': give True or False")


def test_a_density_of_nearly_one_is_refused_at_once():
    """T5 counts up to the length of its pieces, here for minutes."""
    assert "span corruption of 512 inputs needs 3513411077 targets" in told(
        Spans(0.9999999, 1e9), 512, 512
    )


def add_task(name, vocabulary=cached_tasks.BYTES, **numbers):
    """A user's own task with T5's own step in it."""
    if name not in seqio.TaskRegistry.names():
        seqio.TaskRegistry.add(
            name,
            source=seqio.FunctionDataSource(_texts, ["train"]),
            preprocessors=[
                seqio.preprocessors.tokenize,
                seqio.CacheDatasetPlaceholder(),
                functools.partial(preprocessors.span_corruption, **numbers),
                seqio.preprocessors.append_eos_after_trim,
            ],
            output_features={k: seqio.Feature(vocabulary) for k in ("inputs", "targets")},
        )
    return seqio.TaskRegistry.get(name)


def _texts(split, shuffle_files=False, seed=None):
    return tf.data.Dataset.from_tensor_slices({"inputs": ["", ""], "targets": ["a" * 99, "b"]})


def read(name, inputs, targets):
    lengths = {"inputs": inputs, "targets": targets}
    return features.train_dataset(task_data(name, lengths, 1))


DENSE = dict(noise_density=0.55, mean_noise_span_length=1)
HALF = dict(noise_density=0.5)


@pytest.mark.parametrize(
    "name, numbers, lengths, message",
    [
        (
            "spans_crowded",
            DENSE,
            (20, 30),
            "noise_density of task 'spans_crowded'=0.55, mean_noise_span_length of task "
            "'spans_crowded'=1: in a piece of 3 tokens, 2 would be masked in 2 spans, leaving 1 "
            "to separate them: lower the density, or lengthen the spans",
        ),
        (
            "spans_half",
            HALF,
            (684, 684),
            "TASK_FEATURE_LENGTHS['inputs']=684: the spans of 1024 tokens need 171 sentinels, but "
            "the vocabulary has 100, and ordinary pieces would be used for the rest: set it to at "
            "most 403, raise mean_noise_span_length of task 'spans_half', or use a vocabulary "
            "with 171",
        ),
        (
            "spans_t5",
            {},
            (512, 100),
            "TASK_FEATURE_LENGTHS['targets']=100 is too short: span corruption of 512 inputs "
            "needs 114 targets",
        ),
        (
            "spans_t5",
            {},
            (6, 6),
            "TASK_FEATURE_LENGTHS['inputs']=6 is too short for the 7 inputs that t5's "
            "span_corruption makes of 6 tokens: use that of switch_tf.tasks.parts.preprocessors, "
            "which cuts pieces that fit, or another length",
        ),
    ],
)
def test_t5s_own_step_in_a_task_is_checked_before_it_reads(name, numbers, lengths, message):
    add_task(name, **numbers)
    with pytest.raises(UserError) as raised:
        read(name, *lengths)
    assert str(raised.value) == message


def test_t5s_own_step_that_fits_is_read():
    add_task("spans_t5")
    assert next(iter(read("spans_t5", 32, 12)))
    task = add_task("spans_reserved", reserved_for_packing=8)
    spans.check_t5_steps(task, {"inputs": 40, "targets": 12})


def test_the_roll_of_t5s_own_step_would_cut_a_token_off():
    task = add_task("spans_t5")
    with gin.unlock_config():
        gin.parse_config("random_spans_noise_mask.random_roll = True")
    try:
        with pytest.raises(UserError, match="512 is too short for the 513 inputs"):
            spans.check_t5_steps(task, {"inputs": 512, "targets": 120})
    finally:
        gin.clear_config()


def test_sentinels_are_those_of_the_vocabulary():
    few = dataclasses.replace(T5, named="{}")
    assert few.check({"inputs": 32, "targets": 12}, 2)
    assert spans.num_sentinels(seqio.ByteVocabulary(extra_ids=7)) == 7
    assert spans.num_sentinels(seqio.PassThroughVocabulary(100)) == 0

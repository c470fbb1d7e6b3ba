import functools
import itertools
import re

import gin
import numpy as np
import pytest
import seqio
import tensorflow as tf
from t5.data import preprocessors as t5_preprocessors

from switch_tf import config
from switch_tf.data import features, windows
from switch_tf.data.autograph import without_autograph
from switch_tf.data.spans import Spans
from switch_tf.errors import UserError
from switch_tf.tasks.parts import preprocessors
from tests.data import cached_tasks
from tests.helpers import task_data

BYTES = seqio.ByteVocabulary(extra_ids=100)
FEATURES = {name: seqio.Feature(BYTES, add_eos=True) for name in ("inputs", "targets")}
# The sentinels count down from the last id.
LAST = BYTES.vocab_size - 1


@pytest.fixture(autouse=True)
def _forget_gin():
    yield
    gin.clear_config()


def corrupt(documents, lengths, step=preprocessors.span_corruption, seed=0):
    dataset = tf.data.Dataset.from_generator(
        lambda: ({"targets": document} for document in documents),
        output_signature={"targets": tf.TensorSpec([None], tf.int32)},
    )
    with seqio.utils.map_seed_manager(seed):
        dataset = without_autograph(lambda: step(dataset, lengths, FEATURES))
    return [{k: v.tolist() for k, v in example.items()} for example in dataset.as_numpy_iterator()]


def spans(tokens):
    """Tokens between sentinels: sentinel -> those after it; those before the first under None."""
    found, key = {None: []}, None
    for token in tokens:
        if token > LAST - 100:
            key = token
            found[key] = []
        else:
            found[key].append(token)
    return found


def fill(example):
    """The text before its corruption."""
    inputs, targets = (list(spans(example[name]).values()) for name in ("inputs", "targets"))
    if targets[0]:
        # Of a text that begins masked, no sentinel is in front of that.
        targets.insert(0, [])
    parts = itertools.zip_longest(targets, inputs, fillvalue=[])
    return list(itertools.chain.from_iterable(masked + shown for masked, shown in parts))


def test_the_masked_spans_fill_the_gaps_of_the_joined_documents():
    documents = [list(range(3, 103)), list(range(103, 133)), list(range(133, 203))]
    examples = corrupt(documents, {"inputs": 64, "targets": 20})
    assert len(examples) > 1
    assert [t for e in examples for t in fill(e)] == sum(documents, [])


def test_fifteen_percent_are_masked_in_spans_of_three():
    (example, *_) = corrupt([[5] * 600], {"inputs": 512, "targets": 114})
    masked = spans(example["targets"])
    assert len(example["inputs"]) == 511 and len(example["targets"]) == 113
    # 568 tokens become 511 inputs: 85 of them masked, in 28 spans.
    assert list(masked) == [None, *range(LAST, LAST - 28, -1)]
    assert sum(map(len, masked.values())) == 85
    assert spans(example["inputs"]).keys() == masked.keys()


@pytest.mark.parametrize("lengths", [None, {}, {"targets": 36}, {"inputs": 128}])
def test_a_length_that_is_missing_is_one_line(lengths):
    missing = "targets" if lengths and "inputs" in lengths else "inputs"
    with pytest.raises(UserError) as raised:
        corrupt([[5] * 300], lengths)
    assert str(raised.value) == (
        f"TASK_FEATURE_LENGTHS has no '{missing}', the length to which span corruption cuts text: "
        "set it to {'inputs': 128, 'targets': 36}, for example"
    )


def test_targets_too_short_for_the_inputs_are_one_line_with_the_least_length():
    with pytest.raises(UserError) as raised:
        corrupt([[5] * 300], {"inputs": 512, "targets": 113})
    assert str(raised.value) == (
        "TASK_FEATURE_LENGTHS['targets']=113 is too short: span corruption of 512 inputs needs 114 "
        "targets"
    )


@pytest.mark.parametrize("tokens, seed", [(20, seed) for seed in range(10)] + [(100, 0)])
def test_examples_are_t5s_own(tokens, seed):
    """google-research/text-to-text-transfer-transformer#905: of 20 tokens, the last are masked."""
    documents, lengths = [list(range(3, 3 + tokens))], {"inputs": 128, "targets": 40}
    ours = corrupt(documents, lengths, seed=seed)
    assert ours == corrupt(documents, lengths, t5_preprocessors.span_corruption, seed)
    assert len(ours) == 1 and fill(ours[0]) == documents[0]
    assert ours[0]["inputs"][0] == 3 and ours[0]["inputs"][-1] > LAST - 100


@pytest.mark.parametrize("lengths", [(512, 114), (128, 40), (64, 20), (10, 5)])
def test_long_texts_become_t5s_own_examples(lengths):
    generator = np.random.default_rng(0)
    documents = [generator.integers(3, 200, 1 + 40 * i).tolist() for i in range(40)]
    lengths = dict(zip(("inputs", "targets"), lengths, strict=True))
    ours = corrupt(documents, lengths)
    theirs = corrupt(documents, lengths, t5_preprocessors.span_corruption)
    # The last piece may be of one token.
    assert ours[:-1] == theirs[:-1] and len(ours) > 50


@pytest.mark.parametrize(
    "text, inputs, targets",
    [
        ([7], [LAST], [LAST, 7]),
        ([7, 8], [7, LAST], [LAST, 8]),
    ],
)
def test_texts_of_one_and_two_tokens_are_masked(text, inputs, targets):
    """T5 masks nothing of one token, and its targets are a sentinel that stands nowhere."""
    lengths = {"inputs": 128, "targets": 40}
    assert corrupt([text], lengths) == [{"inputs": inputs, "targets": targets}]
    assert fill(corrupt([text], lengths)[0]) == text


def test_what_is_left_of_joined_documents_is_masked_to_its_last_token():
    lengths = {"inputs": 20, "targets": 8}
    documents = [[5] * 15, [6] * (2 * Spans().piece(lengths) + 1 - 15)]
    examples = corrupt(documents, lengths)
    assert examples[-1] == {"inputs": [LAST], "targets": [LAST, 6]}
    assert [t for e in examples for t in fill(e)] == sum(documents, [])


def test_a_text_without_tokens_gives_no_example():
    assert corrupt([[]], {"inputs": 20, "targets": 8}) == []


@pytest.mark.parametrize("inputs", range(4, 12))
def test_short_inputs_lose_no_token(inputs):
    """T5 cuts to as many tokens as become one input too many."""
    documents = [list(range(3, 150))]
    examples = corrupt(documents, {"inputs": inputs, "targets": 5})
    assert [t for e in examples for t in fill(e)] == documents[0]
    assert max(len(e["inputs"]) for e in examples) < inputs


def set_gin(*bindings):
    """By the way of a run: the check before TensorFlow starts, and the loading."""
    config.precheck([], bindings)
    config.load([], bindings)


def test_gin_sets_density_and_length_of_spans():
    set_gin("span_corruption.noise_density=0.5", "span_corruption.mean_noise_span_length=10.0")
    (example, *_) = corrupt([[5] * 600], {"inputs": 105, "targets": 106})
    masked = spans(example["targets"])
    assert (len(masked) - 1, sum(map(len, masked.values()))) == (9, 94)
    # What a task of one's own gives goes before it.
    step = functools.partial(preprocessors.span_corruption, noise_density=0.1)
    (example, *_) = corrupt([[5] * 600], {"inputs": 105, "targets": 106}, step)
    assert sum(map(len, spans(example["targets"]).values())) == 12


@pytest.mark.parametrize(
    "binding",
    ["span_corruption.noise_density=1.5", "span_corruption.mean_noise_span_length=0.5"]
    + ["random_spans_noise_mask.random_roll='no'"],
)
def test_numbers_out_of_range_are_refused(binding):
    with pytest.raises(UserError, match=re.escape(binding)):
        set_gin(binding)
        # What T5 does not annotate, as the pipeline is made.
        corrupt([[5] * 600], {"inputs": 105, "targets": 106})


def test_more_spans_than_the_vocabulary_has_sentinels_are_refused():
    set_gin("span_corruption.noise_density=0.5")
    with pytest.raises(
        UserError, match="1024 tokens need 171 sentinels, but the vocabulary has 100"
    ):
        corrupt([[5] * 600], {"inputs": 684, "targets": 684})


ROLL = "random_spans_noise_mask.random_roll=True"
LENGTHS = {"inputs": 24, "targets": 12}


def texts(split, shuffle_files=False, seed=None):
    return tf.data.Dataset.from_tensor_slices({"targets": ["abcdefghijklmnopqrstuvw"] * 128})


if "preprocessors_spans" not in seqio.TaskRegistry.names():
    seqio.TaskRegistry.add(
        "preprocessors_spans",
        source=seqio.FunctionDataSource(texts, ["train"]),
        preprocessors=[
            seqio.preprocessors.tokenize,
            seqio.CacheDatasetPlaceholder(),
            preprocessors.span_corruption,
            seqio.preprocessors.append_eos_after_trim,
        ],
        output_features={
            "inputs": seqio.Feature(BYTES, required=False),
            "targets": seqio.Feature(BYTES),
        },
    )


def uncached(folder):
    batches = features.train_dataset(task_data("preprocessors_spans", LENGTHS, 100))
    batch = next(batches.as_numpy_iterator())
    rows = zip(batch["encoder_input_tokens"], batch["decoder_target_tokens"], strict=True)
    return [{"inputs": i[i > 1].tolist(), "targets": t[t > 1].tolist()} for i, t in rows]


def cached(folder):
    cached_tasks.write(folder, "preprocessors_spans")
    seqio.set_global_cache_dirs([str(folder)])
    task = seqio.TaskRegistry.get("preprocessors_spans")
    try:
        found = windows.Windows(task, "train", LENGTHS, seed=0, streams=1).examples(0, 0)
    finally:
        cached_tasks.forget()
        task._cache_dir = None
    return [{k: v[v > 1].tolist() for k, v in example.items()} for example in found]


@pytest.mark.parametrize("read", [uncached, cached])
@pytest.mark.parametrize("roll", [False, True])
def test_the_roll_lets_masks_begin_and_end_anywhere(roll, read, tmp_path):
    """By default the first token never is masked, and the last always; gin sets T5's own name."""
    set_gin(*[ROLL] * roll)
    examples = read(tmp_path)
    begin, end = (
        {example["inputs"][place] > LAST - 100 for example in examples} for place in (0, -1)
    )
    assert (begin, end) == (({False, True},) * 2 if roll else ({False}, {True}))
    # No token is cut off: these are parts of one text, again and again.
    whole = "abcdefghijklmnopqrstuvw" * 128
    assert len(examples) > 60
    for example in examples:
        assert BYTES.decode(fill(example)) in whole
        # Nor is a sentinel: each masked span has one in the inputs.
        masked = sum(map(bool, spans(example["targets"]).values()))
        assert masked == len(spans(example["inputs"])) - 1
    lengths = {len(fill(example)) for example in examples}
    assert max(lengths) == (25 if roll else 26) and len(lengths) < 4


def test_what_gin_sets_is_in_the_configuration_of_the_run(tmp_path):
    set_gin(ROLL, "span_corruption.noise_density=0.2")
    uncached(tmp_path)
    found = config.operative_config()
    assert "random_spans_noise_mask.random_roll = True" in found
    assert "span_corruption.noise_density = 0.2" in found
    path = tmp_path / "config.gin"
    path.write_text(found)
    assert config.precheck([str(path)])["random_spans_noise_mask.random_roll"] is True

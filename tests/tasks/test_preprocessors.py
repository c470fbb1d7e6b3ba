import itertools

import pytest
import seqio
import tensorflow as tf

from switch_tf.errors import UserError
from tasks import preprocessors

BYTES = seqio.ByteVocabulary(extra_ids=100)
FEATURES = {name: seqio.Feature(BYTES, add_eos=True) for name in ("inputs", "targets")}
# The sentinels count down from the last id.
LAST = BYTES.vocab_size - 1


def corrupt(documents, lengths):
    dataset = tf.data.Dataset.from_generator(
        lambda: ({"targets": document} for document in documents),
        output_signature={"targets": tf.TensorSpec([None], tf.int32)},
    )
    with seqio.utils.map_seed_manager(0):
        dataset = preprocessors.span_corruption(dataset, lengths, FEATURES)
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
    inputs, targets = spans(example["inputs"]), spans(example["targets"])
    return list(itertools.chain.from_iterable(targets.get(k, []) + v for k, v in inputs.items()))


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
        f"TASK_FEATURE_LENGTHS has no '{missing}', which span corruption cuts text to: set it to "
        "{'inputs': 128, 'targets': 36}, for example"
    )


def test_targets_too_short_for_the_inputs_are_one_line_with_the_least_length():
    with pytest.raises(UserError) as raised:
        corrupt([[5] * 300], {"inputs": 512, "targets": 113})
    assert str(raised.value) == (
        "TASK_FEATURE_LENGTHS['targets']=113 is too short: span corruption of 512 inputs has 114 "
        "targets"
    )

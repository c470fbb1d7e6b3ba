"""Padding carries no loss, and evaluations see the same examples: cached or not, packed or not."""

import itertools

import numpy as np
import pytest
import seqio
import tensorflow as tf

from switch_tf.data import features
from switch_tf.data.ordered import OrderedBatches
from tests.data import cached_tasks
from tests.data.cached_tasks import LENGTHS
from tests.helpers import assert_same_batches, task_data

NAMES = ("cached_pairs", "cached_spans")
END = 1


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    for name in (*NAMES, "cached_few"):
        cached_tasks.write(folder, name, ("train", "validation"))
    cached_tasks.forget()
    seqio.add_global_cache_dirs([str(folder)])
    yield folder
    cached_tasks.forget()


def train(name, pack, use_cached):
    data = task_data(name, LENGTHS, 6, pack=pack)
    if use_cached:
        return list(itertools.islice(OrderedBatches(data), 20))
    return arrays(features.train_dataset(data).take(20))


def evaluation(name, pack, use_cached, num_batches=None):
    # Of ten texts: the last batch is not full.
    shared = {"split": "validation", "pack": pack, "use_cached": use_cached}
    return features.eval_dataset(task_data(name, LENGTHS, 6, **shared), num_batches)


def arrays(batches):
    return list(batches.as_numpy_iterator())


def is_real(tokens):
    """Every position up to the last end of sequence of its row: each example has one."""
    return np.flip(np.maximum.accumulate(np.flip(tokens == END, 1), 1), 1)


@pytest.mark.parametrize("use_cached", [False, True])
@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("read", [train, evaluation])
def test_loss_weights_are_one_on_tokens_and_zero_on_padding(read, name, pack, use_cached):
    """marin#7209: padding had loss weight."""
    batches = read(name, pack, use_cached)
    found = {"padded": 0, "empty": 0, "tokens": 0}
    for batch in batches if read is train else arrays(batches):
        tokens, weights = batch["decoder_target_tokens"], batch["decoder_loss_weights"]
        real = is_real(tokens)
        np.testing.assert_array_equal(weights, real.astype(np.int32))
        assert not tokens[~real].any() and tokens[real].all()
        found["padded"] += np.count_nonzero(~real)
        found["empty"] += np.count_nonzero(~real.any(axis=1))
        found["tokens"] += np.count_nonzero(real)
    assert found["tokens"] and found["padded"]
    # Rows that fill up the last batch of an evaluation.
    assert bool(found["empty"]) == (read is evaluation)


@pytest.mark.parametrize("use_cached", [False, True])
def test_a_mixture_has_no_loss_on_padding(use_cached):
    for batch in train("cached_mixture", True, use_cached):
        real = is_real(batch["decoder_target_tokens"])
        np.testing.assert_array_equal(batch["decoder_loss_weights"], real.astype(np.int32))
        np.testing.assert_array_equal(batch["decoder_segment_ids"] > 0, real)


@pytest.mark.parametrize("num_batches", [None, 1])
@pytest.mark.parametrize("use_cached", [False, True])
@pytest.mark.parametrize("name, pack", [("cached_pairs", False), ("cached_spans", True)])
def test_a_second_evaluation_sees_the_same_examples(name, pack, use_cached, num_batches):
    """text-to-text-transfer-transformer#122, OLMo-core#652: also with a limit of batches."""
    dataset = evaluation(name, pack, use_cached, num_batches)
    first = arrays(dataset)
    assert_same_batches(arrays(dataset), first)
    # Of another process, after other draws.
    tf.random.uniform([3])
    assert_same_batches(arrays(evaluation(name, pack, use_cached, num_batches)), first)

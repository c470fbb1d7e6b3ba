import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.experimental import dtensor

from switch_tf import mesh as mesh_lib
from switch_tf.data import feed as feed_module
from switch_tf.data.feed import Feed
from switch_tf.data.waiting import Input
from switch_tf.errors import InputHangs, UserError

FEATURES = ("encoder_input_tokens", "decoder_target_tokens")
MESHES = [("batch:8", "batch:batch"), ("batch:2,model:2", "batch:batch")]


def batches(n=6, wait=0.0):
    def generate():
        for i in range(n):
            time.sleep(wait)
            tokens = np.arange(8 * 4, dtype=np.int32).reshape(8, 4) + 100 * i
            yield {"encoder_input_tokens": tokens, "decoder_target_tokens": tokens[:, :2] * 0 + 1}

    spec = {
        "encoder_input_tokens": tf.TensorSpec((8, 4), tf.int32),
        "decoder_target_tokens": tf.TensorSpec((8, 2), tf.int32),
    }
    return tf.data.Dataset.from_generator(generate, output_signature=spec)


def numbers(n=100):
    """As `batches`, of a source whose position can be saved, read ahead."""
    dataset = tf.data.Dataset.range(n, output_type=tf.int32).shuffle(50, seed=1)
    dataset = dataset.map(
        lambda i: {
            "encoder_input_tokens": i + tf.zeros((8, 4), tf.int32),
            "decoder_target_tokens": tf.ones((8, 2), tf.int32),
        }
    )
    return dataset.prefetch(4)


def host(batch):
    return {name: mesh_lib.to_numpy(value) for name, value in batch.items()}


@pytest.mark.parametrize("shape, rules", MESHES)
def test_batch_is_laid_out_over_the_mesh(shape, rules):
    mesh = mesh_lib.Mesh.create(shape, rules)
    batch = Feed(batches(), mesh).next()
    for name, length in (("encoder_input_tokens", 4), ("decoder_target_tokens", 2)):
        layout = dtensor.fetch_layout(batch[name])
        assert layout == mesh.layout(("batch", "length"))
        parts = dtensor.unpack(batch[name])
        assert len(parts) == mesh.size
        assert {tuple(part.shape) for part in parts} == {(8 // mesh.shape["batch"], length)}
    expected = np.arange(32).reshape(8, 4)
    np.testing.assert_array_equal(host(batch)["encoder_input_tokens"], expected)


@pytest.mark.parametrize("shape, rules", MESHES)
def test_feed_works_inside_the_mesh(shape, rules):
    mesh = mesh_lib.Mesh.create(shape, rules)
    with mesh_lib.use(mesh):
        feed = Feed(batches(), mesh)
        feed.next()
        second = feed.next()
    assert mesh_lib.to_numpy(second["encoder_input_tokens"])[0, 0] == 100


@pytest.mark.parametrize("shape, rules", MESHES)
def test_restored_feed_gives_the_next_batch(shape, rules, tmp_path):
    mesh = mesh_lib.Mesh.create(shape, rules)
    feed = Feed(numbers(), mesh)
    for _ in range(5):
        feed.next()
    path = tf.train.Checkpoint(iterator=feed.iterator).write(str(tmp_path / "position"))
    restored = Feed(numbers(), mesh)
    tf.train.Checkpoint(iterator=restored.iterator).read(path).assert_consumed()
    for _ in range(20):
        expected, got = host(feed.next()), host(restored.next())
        for name in expected:
            np.testing.assert_array_equal(got[name], expected[name])


def test_end_of_the_data_stops_the_iteration():
    feed = Feed(batches(n=1), mesh_lib.Mesh.create("batch:2", "batch:batch"))
    feed.next()
    with pytest.raises(StopIteration):
        feed.next()


def test_what_the_data_take_counts_as_waiting_and_packing_does_not(monkeypatch):
    mesh = mesh_lib.Mesh.create("batch:2", "batch:batch")
    feed = Feed(batches(wait=0.2), mesh)
    feed.next()
    feed.next()
    assert feed.wait_seconds >= 0.19
    feed = Feed(batches(), mesh)
    feed.next()
    monkeypatch.setattr(mesh_lib.Mesh, "pack", lambda *_: time.sleep(0.2))
    feed.next()
    assert feed.wait_seconds < 0.19


def test_the_tokens_of_the_batch_are_counted_without_padding():
    feed = Feed(batches(), mesh_lib.Mesh.create("batch:2", "batch:batch"))
    feed.next()
    assert feed.tokens == (31, 16)


def test_the_tokens_of_rows_that_other_hosts_make_are_estimated():
    class Half:
        rows = range(4)

        def __iter__(self):
            batch = {name: np.zeros((8, 4), np.int32) for name in FEATURES}
            for tokens in batch.values():
                tokens[:4, :3] = 1
            return iter([batch])

    feed = Feed(Half(), mesh_lib.Mesh.create("batch:2", "batch:batch"))
    feed.next()
    assert feed.tokens == (24, 24)


def test_an_error_of_the_pipeline_is_one_line_that_names_what_is_read():
    mesh = mesh_lib.Mesh.create("batch:2", "batch:batch")
    numbers = tf.data.Dataset.range(4).map(lambda x: {"encoder_input_tokens": x // (x - 2)})
    feed = Feed(numbers.batch(4), mesh, "'toy', split 'train'")
    with pytest.raises(UserError) as told:
        feed.next()
    assert str(told.value) == (
        "'toy', split 'train': Integer division by zero: see whether its data fit the "
        "task's preprocessors"
    )


def test_data_that_hang_end_the_wait_with_their_names(monkeypatch):
    monkeypatch.setattr(feed_module, "Input", lambda: Input(timeout=0.1))
    mesh = mesh_lib.Mesh.create("batch:2", "batch:batch")
    feed = Feed(batches(wait=1.0), mesh, "'toy', split 'train'")
    with pytest.raises(InputHangs, match="a batch of 'toy', split 'train' has not come within 0.1"):
        feed.next()
    assert not feed.tells_position


class Late(tf.train.experimental.PythonState):
    """An iterator of numbers as of a cache, which comes when it is let."""

    def __init__(self):
        super().__init__()
        self.position, self.goes_on = 0, threading.Event()

    def __iter__(self):
        return self

    def __next__(self):
        raise AssertionError("the position is moved by itself")

    def ahead(self):
        assert self.goes_on.wait(60)
        tokens = np.full((8, 4), self.position, np.int32)
        batch = {"encoder_input_tokens": tokens, "decoder_target_tokens": tokens}
        return batch, self.position + 1

    def move_to(self, position):
        self.position = position

    def serialize(self):
        return str(self.position)

    def deserialize(self, string_value):
        self.position = int(string_value)


def test_a_batch_that_comes_too_late_does_not_move_the_position(monkeypatch):
    monkeypatch.setattr(feed_module, "Input", lambda: Input(timeout=0.2))
    late, before = Late(), threading.active_count()
    feed = Feed(late, mesh_lib.Mesh.create("batch:2", "batch:batch"))
    assert feed.tells_position
    with pytest.raises(InputHangs):
        feed.skip(1)
    late.goes_on.set()
    while threading.active_count() > before:
        time.sleep(0.01)
    assert late.position == 0
    feed.skip(2)
    assert late.position == 2
    assert int(host(feed.next())["encoder_input_tokens"][0, 0]) == 2

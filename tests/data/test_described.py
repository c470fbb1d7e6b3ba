import dataclasses
import functools
import re
import subprocess
import sys

import numpy as np
import pytest
import seqio
import tensorflow as tf

from switch_tf.data.described import described

TABLE = {"0": "no"}


class Plain:
    def __init__(self, value):
        self.value = value

    def apply(self, dataset):
        return dataset

    def __call__(self, dataset):
        return dataset


class Slots:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


@dataclasses.dataclass(frozen=True)
class Data:
    value: object


def closure(value):
    return lambda dataset: dataset.shard(value, 0)


def nested(value):
    def inner(example):
        return value

    def outer(dataset):
        return dataset.map(inner)

    return outer


def default(value):
    def function(dataset, of=value):
        return dataset

    return function


def keyword_default(value):
    def function(dataset, *, of=value):
        return dataset

    return function


def mapped(value):
    @seqio.map_over_dataset
    def function(example, of=value):
        return example

    return function


def method(value):
    return Plain(value).apply


def given(value):
    return functools.partial(Plain(0).apply, value)


def cached(value):
    return functools.lru_cache(default(value))


MAKERS = [Plain, Slots, Data, closure, nested, default, keyword_default, mapped, method, given]


@pytest.mark.parametrize("make", [*MAKERS, cached], ids=lambda make: make.__name__)
@pytest.mark.parametrize(
    "one, other",
    [
        (3, 300),
        ("a", "b"),
        (None, 0),
        ((1, [2]), (1, [3])),
        ({"0": "yes"}, {"0": "no"}),
        ({"a": {"b": 1}}, {"a": {"b": 2}}),
        ({1, 2}, {1, 3}),
        (np.arange(3), np.arange(4)),
        (np.array(["a"], object), np.array(["b"], object)),
        (tf.constant([1.0]), tf.constant([2.0])),
        (seqio.ByteVocabulary(), seqio.ByteVocabulary(5)),
        (re.compile("a"), re.compile("b")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_a_function_or_an_object_holds_is_a_difference(make, one, other):
    assert described(make(one)) == described(make(one)) != described(make(other))


def test_the_names_of_a_module_that_a_function_uses_are_a_difference(monkeypatch):
    def function(example):
        return TABLE[example]

    before = described(function)
    monkeypatch.setitem(TABLE, "0", "yes")
    assert described(function) != before


def test_the_code_of_a_user_is_a_difference_and_its_place_in_a_file_is_not():
    texts = [
        "def f(x):\n    return x + 1",
        "def f(x):\n    return x + 2",
        "\n\ndef f(x): return x + 1",
    ]
    found = []
    for text in texts:
        names = {"__name__": "my_tasks"}
        exec(text, names)
        found.append(described(names["f"]))
    assert found[0] != found[1] and found[0] == found[2]
    assert re.fullmatch(r"f \(code [0-9a-f]{12}\)", found[0])


def test_another_process_says_the_same():
    text = (
        "from switch_tf.data.described import described\n"
        "class Own: pass\n"
        "def f(x, of={'a', 'b', 'c'}, own=Own()): return x in {'d', 'e', 'f'}\n"
        "print(described(f))"
    )
    seeds = ({"PYTHONHASHSEED": seed} for seed in ("1", "2"))
    environments = [{"PATH": "", "TF_CPP_MIN_LOG_LEVEL": "3", **seed} for seed in seeds]
    one, other = (
        subprocess.check_output([sys.executable, "-c", text], env=env, text=True)
        for env in environments
    )
    assert one == other


def test_a_library_is_named_alone_and_what_holds_itself_ends():
    assert described(seqio.preprocessors.tokenize) == "tokenize"
    assert described(tf.data.TextLineDataset) == "TextLineDatasetV2"
    own = Plain(None)
    own.value = own
    assert re.fullmatch(r"Plain of value=... \(code \w+\)", described(own))


def test_long_values_are_a_digest():
    assert re.fullmatch(r"Data of values [0-9a-f]{12}", described(Data("a" * 500)))

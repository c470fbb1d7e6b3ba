"""What is drawn of each registered mixture, against what it promises."""

import gzip
import json
import re
from pathlib import Path

import gin
import numpy as np
import pytest
import seqio
import tensorflow as tf

from switch_tf.data import registry
from switch_tf.data.autograph import without_autograph
from switch_tf.data.permutation import Schedule
from switch_tf.tasks import pydocs
from switch_tf.tasks.parts import rates

ROOT = Path(__file__).parent.parent.parent
# Nothing is cut off of the supervised tasks; mC4's text is cut to these.
LENGTHS = {"inputs": 512, "targets": 114}
DRAWN = 2000
DOCUMENTS = {"de": 40, "fr": 8, "sw": 2}


def by_tokens(task, lengths):
    """Of GLUE and SuperGLUE: the tokens in each, which are examples times their mean length."""
    return lengths.sum()


def by_documents(task, lengths):
    """Of mC4 and libraries: their documents to a power, whose examples are nearly of one length."""
    return task.source.num_input_examples("train") ** 0.3 * lengths.mean()


def by_set_rates(task, lengths):
    """Of the docstrings: examples at rates of their own, so tokens at these times mean lengths."""
    return pydocs._RATES[task.name] * lengths.mean()


# Mixture -> function of a task and the lengths of its examples: the tokens of it that are promised,
# up to a factor that all its tasks have in common.
PROMISES = {
    "glue": by_tokens,
    "super_glue": by_tokens,
    "mc4": by_documents,
    "pydocs_finetune": by_set_rates,
    "pydocs_libraries": by_documents,
}


def sizes(dataset, *others):
    """Tokens of inputs and targets of each example, and the named features: float64 [examples]."""
    dataset = dataset.map(
        lambda x: (sum(tf.size(x[name]) for name in LENGTHS), *(x[name] for name in others))
    )
    columns = zip(*dataset.batch(1000).as_numpy_iterator(), strict=True)
    return [np.concatenate(column).astype(np.float64) for column in columns]


def lengths_of(task):
    """Of the examples that a task gives of its train split, each once."""
    return sizes(
        without_autograph(
            lambda: task.get_dataset(LENGTHS, "train", shuffle=False, seed=0, num_epochs=1)
        )
    )[0]


def mixtures_of_the_project():
    """Names of the mixtures that `tasks/` registers: not those of tests and of docs."""
    registry.load_project_modules()
    texts = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "docs").rglob("*.md")]
    add = re.compile(r'MixtureRegistry\.add\(\s*"(\w+)"')
    others = {name for path in texts for name in add.findall(path.read_text())}
    return set(seqio.MixtureRegistry.names()) - others


@pytest.fixture
def data(official, small_corpus, tmp_path):
    """Small files of everything that a mixture reads."""
    rates._estimate.cache_clear()
    for language, count in DOCUMENTS.items():
        path = tmp_path / f"mc4/c4-{language}.json.gz"
        path.parent.mkdir(exist_ok=True)
        lines = [json.dumps({"text": f"{language} it rains. " * 100}) for _ in range(count)]
        path.write_bytes(gzip.compress("\n".join(lines).encode()))
    with gin.unlock_config():
        gin.bind_parameter("mc4.train", f"{tmp_path}/mc4/c4-{{language}}.json.gz")
        gin.bind_parameter("mc4.languages", list(DOCUMENTS))
    return official


def test_every_mixture_has_a_promise_that_is_tested():
    assert mixtures_of_the_project() == set(PROMISES)


def test_a_mixture_without_a_promise_is_found(monkeypatch):
    mixture = seqio.MixtureRegistry.get("glue")
    monkeypatch.setitem(seqio.MixtureRegistry._REGISTRY, "glue_and_more", mixture)
    assert mixtures_of_the_project() - set(PROMISES) == {"glue_and_more"}


@pytest.mark.parametrize("name", PROMISES)
def test_tokens_are_drawn_as_promised(name, data, monkeypatch):
    mixture = seqio.MixtureRegistry.get(name)
    tasks = [task for task in mixture.tasks if "train" in task.splits]
    names = [task.name for task in tasks]
    lengths = [lengths_of(task) for task in tasks]
    promised = np.array([PROMISES[name](*of) for of in zip(tasks, lengths, strict=True)])
    promised /= promised.sum()
    assert len(tasks) > 2 and promised.min() > 0

    # In SeqIO's order, which draws each example anew.
    get_dataset = seqio.Task.get_dataset

    def marked(self, *args, **kwargs):
        number = names.index(self.name)
        return get_dataset(self, *args, **kwargs).map(lambda x: {**x, "task": number})

    monkeypatch.setattr(seqio.Task, "get_dataset", marked)
    dataset = without_autograph(
        lambda: mixture.get_dataset(LENGTHS, "train", seed=0, passthrough_features=["task"])
    )
    drawn, numbers = sizes(dataset.take(DRAWN), "task")
    of_task = numbers[:, np.newaxis] == np.arange(len(tasks))
    shares = drawn @ of_task / drawn.sum()
    # Standard errors of a ratio of sums.
    errors = np.sqrt(((drawn[:, np.newaxis] * (of_task - shares)) ** 2).sum(axis=0)) / drawn.sum()
    told = dict(zip(names, zip(shares, promised, errors, strict=True), strict=True))
    assert (np.abs(shares - promised) < 4 * errors).all(), told

    # In the order of what is cached, which gives each task its share of examples to the example.
    counts = Schedule({task.name: mixture.get_rate(task) for task in tasks}, 0).shares
    shares = np.array(
        [counts[task.name] * of.mean() for task, of in zip(tasks, lengths, strict=True)]
    )
    np.testing.assert_allclose(shares / shares.sum(), promised, rtol=0.002)

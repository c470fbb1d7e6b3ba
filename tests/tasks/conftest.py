import random

import gin
import pytest

from switch_tf.tasks import pydocs
from switch_tf.tasks.docstrings import corpus, examples, parse
from switch_tf.tasks.docstrings.parse import Document
from switch_tf.tasks.vocabulary import t5
from tests.tasks import official_files

WORDS = [
    "alpha bravo charlie delta echoes foxtrot".split(),
    "golfing hotels indigo juliet kilogram limousine".split(),
    "mikado november oscars papaya quebec romeos".split(),
    "sierra tangos uniform victor whiskey yankee".split(),
    "apples bananas cherries damsons elderberry figs".split(),
    "granite quartz basalt marble gneiss schist".split(),
    "violin cello trumpet oboe flute harpsichord".split(),
    "copper silver golden iron platinum mercury".split(),
]


def make_documents(count=2000):
    """Documents of every library, each with words of its own in summary and body."""
    random_words = random.Random(0)
    documents = []
    for i in range(count):
        library = i % len(examples.LABELS)
        a, b, c = random_words.sample(WORDS[library], 3)
        summary = f"Makes the {a}, the {b} and the {c} {i}."
        text = f"{summary}\n\nThe {a}, {b} and {c} of {library} number {i}."
        documents.append(Document(text, examples.LABELS[library], f"f{i}"))
    return sorted(documents, key=lambda d: d.key)


@pytest.fixture
def parses(monkeypatch):
    """Puts a small corpus in the place of the installed packages; counts how often it is parsed."""
    count = []

    def parse_libraries(folders, workers):
        count.append(1)
        return make_documents()

    monkeypatch.setattr(parse, "find_libraries", dict)
    monkeypatch.setattr(parse, "parse_libraries", parse_libraries)
    return count


@pytest.fixture
def small_corpus(parses, tmp_path):
    """The small corpus, in a cache of its own, with a vocabulary of 150 pieces."""
    with gin.unlock_config():
        gin.parse_config(
            [f"pydocs.cache_folder = '{tmp_path / 'cache'}'", "pydocs.vocabulary_size = 150"]
        )
    yield tmp_path / "cache"
    gin.clear_config()
    corpus._read.cache_clear()
    pydocs._columns.cache_clear()


@pytest.fixture(scope="session")
def official_folder(tmp_path_factory):
    """The official files of all datasets, and a vocabulary trained on them."""
    folder = tmp_path_factory.mktemp("official")
    official_files.write(folder)
    texts = [path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()]
    t5.train(texts, folder / "vocabulary.model", 150)
    return folder


@pytest.fixture
def official(official_folder):
    """The folder, which gin names."""
    model = str(official_folder / "vocabulary.model")
    official_files.set_macros(DATA_DIR=str(official_folder), VOCABULARY_PATH=model)
    yield official_folder
    gin.clear_config()

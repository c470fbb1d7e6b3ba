import concurrent.futures

import gin
import pytest

from switch_tf.errors import UserError
from switch_tf.tasks.docstrings import corpus


def test_the_packages_are_parsed_once_and_then_read(parses, small_corpus):
    first = corpus.documents("train")
    corpus._read.cache_clear()
    assert corpus.documents("train") == first
    corpus.prepare()
    assert len(parses) == 1


def test_those_who_ask_at_once_wait_for_one_parse(parses, small_corpus):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(lambda _: corpus.prepare(), range(4)))
    assert len(set(folders)) == 1 and len(parses) == 1


def test_a_parse_that_was_interrupted_is_done_again(parses, small_corpus):
    folder = corpus.prepare()
    (folder / "COMPLETE").unlink()
    (folder / "train.jsonl").write_text('{"tex')
    assert len(corpus.documents("train")) > 1000
    assert len(parses) == 2


def test_another_version_of_a_package_has_another_cache(small_corpus, monkeypatch):
    before, _ = corpus.settings()
    corpus._key.cache_clear()
    monkeypatch.setattr(corpus.importlib.metadata, "version", lambda name: "0.0")
    after, _ = corpus.settings()
    corpus._key.cache_clear()
    assert before.parent == after.parent and before != after


def test_no_document_of_the_validation_split_is_in_train(small_corpus):
    train, validation = (corpus.documents(s) for s in ("train", "validation"))
    assert validation and not {d.key for d in train} & {d.key for d in validation}


def test_the_vocabulary_is_trained_once_for_each_size(small_corpus):
    path = corpus.vocabulary_path()
    with open(path, "rb") as file:
        content = file.read()
    with open(path, "ab") as file:
        file.write(b"mark")
    assert corpus.vocabulary_path() == path
    with open(path, "rb") as file:
        assert file.read() == content + b"mark"
    gin.bind_parameter("pydocs.vocabulary_size", 120)
    assert corpus.vocabulary_path() != path


@pytest.mark.parametrize("size", [0, "'2k'", 1.5])
def test_a_vocabulary_size_that_is_no_number_is_refused(small_corpus, size):
    gin.bind_parameter("pydocs.vocabulary_size", size)
    with pytest.raises(UserError, match="pydocs.vocabulary_size="):
        corpus.settings()


def test_a_cache_that_cannot_be_written_is_one_line(parses, tmp_path):
    (tmp_path / "file").write_text("")
    with gin.unlock_config():
        gin.bind_parameter("pydocs.cache_folder", str(tmp_path / "file"))
    try:
        with pytest.raises(UserError, match="cannot write to the cache .*pydocs.cache_folder"):
            corpus.prepare()
        gin.bind_parameter("pydocs.cache_folder", "gs://bucket/pydocs")
        with pytest.raises(
            UserError, match="^pydocs.cache_folder='gs://bucket/pydocs': give a loc"
        ):
            corpus.prepare()
    finally:
        gin.clear_config()


def test_the_package_for_tpu_stands_for_tensorflow_and_has_a_cache_of_its_own(
    small_corpus, monkeypatch
):
    versions = {"tensorflow": "2.20.0"}
    monkeypatch.setattr(corpus.importlib.metadata, "version", lambda n: versions.get(n, "1"))
    folders = []
    for package in ("tensorflow", "tensorflow-tpu"):
        held = {package: "2.20.0"}
        monkeypatch.setattr(corpus.accelerators, "tensorflow_packages", lambda held=held: held)
        corpus._key.cache_clear()
        folders.append(corpus.settings()[0])
    corpus._key.cache_clear()
    assert corpus._version("tensorflow") == "tensorflow-tpu 2.20.0"
    assert folders[0] != folders[1]

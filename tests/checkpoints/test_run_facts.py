import subprocess

import pytest
import seqio
import tensorflow as tf

from switch_tf import runtime
from switch_tf.checkpoints import run_facts
from switch_tf.errors import UserError


def provider(*vocabularies):
    """A task whose features have these vocabularies."""
    features = {f"f{i}": seqio.Feature(one) for i, one in enumerate(vocabularies)}
    return seqio.Task("pieces", seqio.TextLineDataSource({"train": "unread"}), features, [])


def pieces(path, content):
    path.write_bytes(content)
    return seqio.SentencePieceVocabulary(str(path))


@pytest.fixture
def copy(tmp_path):
    """Where the copy of a run comes to lie."""
    (tmp_path / "run").mkdir()
    return tmp_path / "run/vocabulary.model"


def test_the_vocabulary_of_all_features_is_copied(copy, tmp_path):
    same = pieces(tmp_path / "a", b"first")
    run_facts.keep_vocabulary(str(copy.parent), provider(same, same))
    assert copy.read_bytes() == b"first"


def test_the_copy_that_a_failed_start_left_is_replaced(copy, tmp_path):
    """Or the run's evaluation would take it, and the digest in run.json be of another."""
    for content in (b"first", b"second"):
        one = provider(pieces(tmp_path / content.decode(), content))
        run_facts.keep_vocabulary(str(copy.parent), one)
    assert copy.read_bytes() == b"second"


def test_a_copy_of_the_same_vocabulary_is_not_written_again(copy, tmp_path):
    """Such as when it is the vocabulary that the run reads."""
    copy.write_bytes(b"first")
    before = copy.stat().st_ino
    for one in (seqio.SentencePieceVocabulary(str(copy)), pieces(tmp_path / "a", b"first")):
        run_facts.keep_vocabulary(str(copy.parent), provider(one))
    assert copy.stat().st_ino == before


def test_nothing_is_copied_of_several_vocabularies_or_of_none(copy, tmp_path):
    two = provider(pieces(tmp_path / "a", b"first"), pieces(tmp_path / "b", b"second"))
    for one in (two, provider(seqio.ByteVocabulary())):
        run_facts.keep_vocabulary(str(copy.parent), one)
    assert not copy.exists()


def test_only_the_chief_copies_a_vocabulary(copy, tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "is_chief", lambda: False)
    run_facts.keep_vocabulary(str(copy.parent), provider(pieces(tmp_path / "a", b"first")))
    assert not copy.exists()


def test_a_vocabulary_that_cannot_be_copied_is_one_line(copy, tmp_path):
    gone = pieces(tmp_path / "a", b"first")
    (tmp_path / "a").unlink()
    with pytest.raises(UserError, match=f"^the vocabulary cannot be copied to '{copy}': .*/a"):
        run_facts.keep_vocabulary(str(copy.parent), provider(gone))


def test_versions_are_of_what_a_run_computes_with():
    found = run_facts.versions()
    assert found["tensorflow"] == tf.__version__
    assert {"python", "switch_tf", "tensorflow-text", "keras", "numpy", "seqio", "t5"} < set(found)
    assert all(version for name, version in found.items() if name != "commit")


def test_the_commit_is_that_of_the_checkout_and_says_if_files_differ(tmp_path, monkeypatch):
    monkeypatch.setattr(run_facts, "_ROOT", tmp_path)
    assert run_facts.versions()["commit"] is None
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "file").write_text("a")
    for command in (["init", "-q"], ["add", "file"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    commit = run_facts.versions()["commit"]
    assert len(commit) == 40
    (tmp_path / "file").write_text("b")
    assert run_facts.versions()["commit"] == f"{commit}-dirty"

"""Whose mistake an error is, and where."""

import importlib
import json
import sys

import pytest
import tensorflow as tf

from switch_tf import config, storage, user_code
from switch_tf.errors import UserError

SOURCE = """
import json


def fails(value):
    return {}[value]


def calls_a_library(value):
    return json.loads("{")


def calls_the_project(value):
    from switch_tf import storage

    return storage.names(3)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_code.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("own_code")
    del sys.modules["own_code"]


def place_of(function, *arguments):
    try:
        function(*arguments)
    except Exception as error:
        return user_code.place_of(error)


def test_an_error_has_the_place_in_the_users_file(own):
    assert place_of(own.fails, "a") == "own_code.py:6, in fails: KeyError: 'a'"


def test_an_error_in_a_library_has_the_place_that_called_it(own):
    told = place_of(own.calls_a_library, "a")
    assert told.startswith("own_code.py:10, in calls_a_library: json.decoder.JSONDecodeError: ")


def test_what_an_error_was_raised_from_counts(own):
    def wraps():
        try:
            own.fails("a")
        except KeyError as error:
            raise json.JSONDecodeError("m", "doc", 0) from error

    # Without the frame of this test, which is a user's, too.
    with pytest.raises(json.JSONDecodeError) as caught:
        wraps()
    wrapped = caught.value.with_traceback(None)
    assert user_code.place_of(wrapped) == "own_code.py:6, in fails: KeyError: 'a'"


def test_an_error_in_this_project_is_no_mistake_of_its_user(own):
    assert place_of(own.calls_the_project, "a") is None
    assert place_of(storage.names, 3) is None


def test_an_error_of_a_library_by_itself_has_no_place():
    error = json.JSONDecodeError("m", "doc", 0)
    assert user_code.place_of(error) is None


@pytest.mark.parametrize(
    ("name", "place"),
    [("fails", "own_code.py:6, in fails: KeyError: b'a'"), ("calls_the_project", None)],
)
def test_a_traceback_in_a_message_of_tensorflow_counts(own, name, place):
    function = getattr(own, name)
    dataset = tf.data.Dataset.from_tensors(b"a").map(
        lambda text: tf.numpy_function(function, [text], tf.string)
    )
    assert place_of(list, dataset) == place


def test_a_module_that_fails_at_its_import_is_one_line_with_the_place(tmp_path, monkeypatch):
    (tmp_path / "own_tasks.py").write_text("import seqio\n\nseqio.NoSuchThing()\n")
    monkeypatch.chdir(tmp_path)
    told = (
        "^--module: cannot import 'own_tasks': own_tasks.py:3, in <module>: AttributeError: "
        "module 'seqio' has no attribute 'NoSuchThing'$"
    )
    with pytest.raises(UserError, match=told):
        config.import_module("own_tasks", "--module")
    for text, error in (
        ("import nowhere_at_all", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("import sys; sys.exit()", "SystemExit"),
        ("open('not_there.txt')", "FileNotFoundError: .*'not_there.txt'"),
    ):
        (tmp_path / "own_ends.py").write_text(f"# Mine.\n{text}\n")
        told = f"^--module: cannot import 'own_ends': own_ends.py:2, in <module>: {error}$"
        with pytest.raises(UserError, match=told):
            config.import_module("own_ends", "--module")
    (tmp_path / "y.gin").write_text("import own_exits\n")
    (tmp_path / "own_exits.py").write_text("raise SystemExit(0)\n")
    with pytest.raises(UserError, match="^y.gin: own_exits.py:1, in <module>: SystemExit: 0$"):
        config.load(["y.gin"])
    with pytest.raises(UserError, match="^x.gin:2: own_tasks.py:3, in <module>: AttributeError: "):
        (tmp_path / "x.gin").write_text("# mine\nimport own_tasks\n")
        config.load(["x.gin"])

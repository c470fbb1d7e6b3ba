import os
import uuid

import pytest
import tensorflow as tf

from switch_tf import storage
from switch_tf.errors import HostLost, StorageFails, UserError


@pytest.fixture(params=["local", "ram://", "file://"])
def folder(request, tmp_path):
    """A folder that is there: local, on TensorFlow's ram://, or below its file://.

    On ram:// a folder is there once a file is in it; file:// has real ones, as hdfs:// has.
    """
    if request.param != "ram://":
        yield f"file://{tmp_path}" if request.param == "file://" else str(tmp_path)
        return
    path = f"ram://storage-{uuid.uuid4().hex}/folder"
    storage.make_folder(path)
    yield path
    storage.remove_folder(path)


def test_what_is_written_can_be_read_and_takes_the_place_of_what_was_there(folder):
    path = f"{folder}/file"
    for content in ("a longer text, é", "a text"):
        storage.write_atomically(path, content)
        assert storage.read_text(path) == content
    storage.write_atomically(path, b"\x00\xff")
    with storage.opened(path, "rb") as file:
        assert file.read() == b"\x00\xff"
    storage.write_json(path, {"a": [1, None]})
    assert storage.read_text(path) == '{\n  "a": [\n    1,\n    null\n  ]\n}'
    assert storage.names(folder) == ["file"]


def test_a_failed_write_leaves_the_old_file(folder, monkeypatch):
    path = f"{folder}/file"
    storage.write_atomically(path, "old")

    def fail(*args, **kwargs):
        raise OSError("full")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
        patch.setattr(storage._system(path), "rename", fail)
        storage.write_atomically(path, "new")
    assert storage.names(folder) == ["file"]
    assert storage.read_text(path) == "old"


def test_a_moved_file_takes_the_place_of_what_was_there(folder):
    for name in ("a", "b"):
        storage.write_atomically(f"{folder}/{name}", name)
    storage.move_file(f"{folder}/a", f"{folder}/b")
    assert storage.names(folder) == ["b"]
    assert storage.read_text(f"{folder}/b") == "a"


def test_a_file_is_created_once_and_then_left_alone(folder):
    path = f"{folder}/file"
    assert storage.create(path)
    storage.write_atomically(path, "content")
    assert not storage.create(path)
    assert storage.read_text(path) == "content"


@pytest.mark.parametrize("moved", ["c", "a/b.damaged"])
def test_a_folder_is_made_moved_and_removed_with_what_is_in_it(folder, moved):
    source, target = f"{folder}/a/b", f"{folder}/{moved}"
    storage.make_folder(source)
    storage.make_folder(source)
    for name in ("x", "y"):
        storage.write_atomically(f"{source}/{name}", name)
    storage.move_folder(source, target)
    assert sorted(storage.names(target)) == ["x", "y"]
    assert storage.read_text(f"{target}/y") == "y"
    assert storage.is_folder(target) and "b" not in storage.names(f"{folder}/a")
    storage.remove_folder(target)
    assert not storage.exists(target)


def test_a_trial_of_writing_leaves_nothing(folder, tmp_path):
    storage.try_to_write(f"{folder}/file")
    assert storage.names(folder) == []
    with pytest.raises(storage.errors()):
        storage.try_to_write(str(tmp_path / "nowhere/file"))


@pytest.mark.parametrize(
    "error, line",
    [
        (OSError("full"), "cannot write: full"),
        (tf.errors.UnavailableError(None, None, "{{node a}} gone\nmore"), "cannot write: gone"),
        (tf.errors.NotFoundError(None, None, "a; gone [Op:Read] name: "), "cannot write: a; gone"),
    ],
)
def test_errors_of_reading_and_writing_are_told_in_one_line(error, line):
    with pytest.raises(UserError) as caught, storage.told("cannot write"):
        raise error
    assert str(caught.value) == line


@pytest.mark.parametrize("kind", sorted(storage._PASSING))
def test_a_fault_of_a_remote_file_system_that_may_pass_has_the_status_of_one(kind):
    error = getattr(tf.errors, kind)(None, None, "HTTP 503")
    with pytest.raises(StorageFails) as caught, storage.told("cannot write to 'gs://b/run'"):
        raise error
    assert caught.value.status == HostLost.status == 75
    assert str(caught.value) == (
        "cannot write to 'gs://b/run': HTTP 503; this may pass: rerun the command to go on"
    )
    assert not storage.is_passing(error, "runs/tiny")


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.PermissionDeniedError(None, None, "forbidden"),
        tf.errors.NotFoundError(None, None, "no such bucket"),
        tf.errors.ResourceExhaustedError(None, None, "full"),
        OSError("full"),
    ],
)
def test_a_fault_of_a_remote_file_system_that_stays_is_the_users(error):
    with pytest.raises(UserError) as caught, storage.told("cannot write to 'gs://b/run'"):
        raise error
    assert caught.value.status == 2 and "may pass" not in str(caught.value)


def test_an_error_names_a_remote_file_system_by_itself_but_not_by_a_link_to_a_web_page():
    def names(text):
        return storage.is_passing(tf.errors.UnavailableError(None, None, text))

    assert names("libcurl code 28\n\t when reading gs://b/object")
    assert not names("gone: see https://www.tensorflow.org/guide") and not names("gone")
    assert storage.is_passing(ConnectionResetError("gone"), "hdfs://b/run")
    assert not storage.is_passing(ValueError("gs://b/run"))


def test_a_path_is_remote_where_only_tensorflow_reads_it(tmp_path):
    assert storage.is_remote("gs://bucket/run")
    assert not storage.is_remote(str(tmp_path)) and not storage.is_remote(tmp_path)


def test_a_name_with_brackets_is_no_pattern_where_there_is_such_a_file(folder, tmp_path):
    for name in ("part[1].txt", "part1.txt", "v[2]/a.txt", "v[2]/b.txt", "v2/c.txt"):
        storage.make_folder(os.path.dirname(f"{folder}/{name}"))
        storage.write_atomically(f"{folder}/{name}", "")

    def matching(pattern):
        found = storage.matching(f"{folder}/{pattern}")
        return [path.removeprefix(f"{folder}/") for path in found]

    assert matching("part[1].txt") == ["part[1].txt"]
    assert matching("part[12].txt") == ["part1.txt"]
    assert matching("part*") == ["part1.txt", "part[1].txt"]
    assert matching("*/c.txt") == ["v2/c.txt"]
    if not storage.is_remote(folder):
        assert matching("v[2]/*.txt") == ["v[2]/a.txt", "v[2]/b.txt"]
        assert matching("v[2]/**/b.txt") == ["v[2]/b.txt"]

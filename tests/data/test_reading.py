import re
import time

import pytest
import seqio
import tensorflow as tf

from switch_tf.data import reading
from switch_tf.data.reading import TaskSplit, elements, user_errors
from switch_tf.data.waiting import Input
from switch_tf.errors import InputHangs, StorageFails, UserError
from switch_tf.tasks.vocabulary import t5
from tests.data.pairs import FEATURES, STEPS


@pytest.fixture
def register():
    """Registers a task of a source, and a mixture of it and of one that holds nothing at fault."""
    added = []

    def add(source):
        def good(split, shuffle_files, seed=None):
            return tf.data.Dataset.from_tensors("a\tb")

        sources = {"reading": source, "reading_good": seqio.FunctionDataSource(good, ["train"])}
        for name, of_task in sources.items():
            seqio.TaskRegistry.add(
                name, source=of_task, preprocessors=STEPS, output_features=FEATURES
            )
            added.append(name)
        seqio.MixtureRegistry.add("reading_mixture", ["reading_good", "reading"], default_rate=1.0)

    yield add
    seqio.MixtureRegistry.remove("reading_mixture")
    for name in added:
        seqio.TaskRegistry.remove(name)


def error_of(name):
    dataset = seqio.get_mixture_or_task(name).get_dataset({"inputs": 8, "targets": 8}, "train")
    with pytest.raises(UserError) as told:
        list(elements(dataset, TaskSplit(name, "train")))
    return str(told.value)


@pytest.mark.parametrize("name", ["reading", "reading_mixture"])
@pytest.mark.parametrize("bad, heading", [(0, 0), (7, 0), (8, 1), (20, 3)])
def test_the_first_line_at_fault_is_named_with_its_task_and_file(
    tmp_path, register, monkeypatch, bad, heading, name
):
    monkeypatch.setattr(reading, "_FIRST_RECORDS", 8)
    lines = ["heading"] * heading + ["a question\tan answer"] * 30
    lines[heading + bad] = "no tab"
    lines[heading + bad + 7] = "none here"
    (tmp_path / "2.tsv").write_text("\n".join(lines))
    files = {"train": f"{tmp_path}/*.tsv"}
    (tmp_path / "1.tsv").write_text("heading\n" * heading + "a\tb\n" * 40)
    register(seqio.TextLineDataSource(files, skip_header_lines=heading))
    assert error_of(name) == (
        f"'reading', split 'train': {tmp_path}/2.tsv:{heading + bad + 1}: 'no tab': Expect 2 "
        "fields but have 1: fix or remove the record, or change the task's preprocessors"
    )


UNPLACED = (
    "'reading', split 'train': Expect 2 fields but have 1: see whether its data fit the task's "
    "preprocessors"
)


def test_where_no_file_is_read_the_record_is_counted(register):
    def bad(split, shuffle_files, seed=None):
        return tf.data.Dataset.from_tensor_slices(["a\tb", "no tab"])

    register(seqio.FunctionDataSource(bad, ["train"]))
    assert error_of("reading") == (
        "'reading', split 'train': record 2: 'no tab': Expect 2 fields but have 1: fix or remove "
        "the record, or change the task's preprocessors"
    )


def test_where_a_function_cannot_be_read_the_record_behind_is_counted(register):
    def ends(split, shuffle_files, seed=None):
        def good(line):
            tf.debugging.assert_none_equal(line, "e\tf")
            return line

        return tf.data.Dataset.from_tensor_slices(["a\tb", "c\td", "e\tf"]).map(good)

    register(seqio.FunctionDataSource(ends, ["train"]))
    assert re.fullmatch(
        "'reading', split 'train': record 3: cannot be read: .*: mend what the source reads, "
        "function ends: it ends there",
        error_of("reading"),
    )


@pytest.mark.parametrize("good, is_found", [(0, True), (1, True), (2, False)])
def test_a_search_that_takes_too_long_is_given_up_behind_the_first_records(
    tmp_path, register, monkeypatch, good, is_found
):
    monkeypatch.setattr(reading, "SEARCH_SECONDS", 0.0)
    monkeypatch.setattr(reading, "_FIRST_RECORDS", 2)
    (tmp_path / "1.tsv").write_text("a\tb\n" * good + "no tab\n")
    (tmp_path / "2.tsv").write_text("no tab\n")
    register(seqio.TextLineDataSource({"train": f"{tmp_path}/*.tsv"}))
    found = error_of("reading")
    assert (f"{tmp_path}/1.tsv:{good + 1}: 'no tab'" in found) == is_found
    assert (found == UNPLACED) != is_found


def test_a_step_that_returns_nothing_is_told_by_the_one_behind(tmp_path):
    source = seqio.FunctionDataSource(
        lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensors("a\tb"), ["train"]
    )
    task = seqio.Task("reading_none", source, FEATURES, [lambda dataset: None, *STEPS])
    place = r"'reading_none', split 'train': \S+:\d+, in \w+: AttributeError: .*"
    with pytest.raises(UserError) as told:
        reading.check_records([task], "train")
    behind = ", in the preprocessor parse_tsv: the source or step before it gave None"
    assert re.fullmatch(place + behind, str(told.value))


def test_a_task_that_does_not_tokenize_is_told_what_is_text():
    source = seqio.FunctionDataSource(
        lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensors("a\tb"), ["train"]
    )
    parse, _, append = STEPS
    task = seqio.Task("reading_text", source, FEATURES, [parse, append])
    with pytest.raises(UserError) as told:
        reading.check_records([task], "train")
    assert str(told.value).endswith(
        ", in the preprocessor append_eos_after_trim: 'inputs' is text there: tokenize it before, "
        "if the step wants tokens"
    )


def test_a_long_record_is_cut(tmp_path, register):
    (tmp_path / "1.tsv").write_text("x" * 1000 + "\n")
    register(seqio.TextLineDataSource({"train": f"{tmp_path}/1.tsv"}))
    assert f"1.tsv:1: '{'x' * 100}...': Expect" in error_of("reading")


@pytest.mark.parametrize("told", ["Task dataset is missing", "Dataset is missing"])
def test_a_feature_that_the_preprocessors_do_not_make_is_one_line(told):
    with (
        pytest.raises(UserError, match=f"'a', split 'b': {told} .*output_features"),
        user_errors(TaskSplit("a", "b")),
    ):
        raise ValueError(f"{told} an expected output feature: targets")


def test_a_check_of_records_ends_after_its_time(tmp_path, register, monkeypatch):
    (tmp_path / "1.tsv").write_text("a\tb\n" * 40 + "no tab\n")
    register(seqio.TextLineDataSource({"train": f"{tmp_path}/1.tsv"}))
    tasks = seqio.get_subtasks(seqio.get_mixture_or_task("reading_mixture"))
    with pytest.raises(UserError, match="1.tsv:41: 'no tab'"):
        reading.check_records(tasks, "train")
    monkeypatch.setattr(reading, "_CHECK_SECONDS", 0.0)
    reading.check_records(tasks, "train")


def test_control_characters_in_what_no_file_shows_are_told(tmp_path, capsys):
    """As in a function, in records, and in the escapes of JSON."""
    t5.train(["ab ba aab bba"] * 9, tmp_path / "drops.model", 8)
    t5.train(["ab ba aab bba"] * 9, tmp_path / "keeps.model", 9, normalization="identity")

    def read(split, shuffle_files, seed=None):
        return tf.data.Dataset.from_tensor_slices(["a\x01a\x85\tb", "a\ta\x9f\vb"])

    def told_with(vocabulary):
        task = seqio.Task(
            "told",
            seqio.FunctionDataSource(read, ["train"]),
            {name: seqio.Feature(vocabulary) for name in FEATURES},
            STEPS,
        )
        reading.check_records([task], "train")
        return capsys.readouterr().err

    assert told_with(seqio.SentencePieceVocabulary(f"{tmp_path}/drops.model")) == (
        "'told', split 'train': 3 control characters, such as U+0001 or U+007F, which vocabularies "
        "drop without a blank in their place\n"
    )
    assert told_with(seqio.SentencePieceVocabulary(f"{tmp_path}/keeps.model")) == ""
    assert told_with(seqio.ByteVocabulary()) == ""


def test_data_that_a_remote_file_system_does_not_give_for_now_are_no_fault_of_a_record():
    error = tf.errors.UnavailableError(None, None, "HTTP 503\n\t when reading gs://b/c4-00001")
    with pytest.raises(StorageFails) as caught, user_errors(TaskSplit("nowhere", "train")):
        raise error
    told = "'nowhere', split 'train': the data cannot be read: HTTP 503; this may pass: "
    assert str(caught.value).startswith(told)
    quoted = "ValueError: gs://b\n\nTraceback (most recent call last):\n"
    with pytest.raises(UserError) as caught, user_errors("data"):
        raise tf.errors.UnknownError(None, None, quoted)
    assert caught.value.status == 2


def test_other_errors_pass():
    with pytest.raises(ZeroDivisionError), user_errors("data"):
        raise ZeroDivisionError


def test_elements_that_do_not_come_end_the_wait_with_their_names(monkeypatch):
    """Such as those of an evaluation, read from a disk that is gone."""
    monkeypatch.setattr(reading, "Input", lambda: Input(timeout=0.2))

    def slow(number):
        time.sleep(0.5 if number else 0)
        return number

    numbers = tf.data.Dataset.range(2).map(lambda n: tf.numpy_function(slow, [n], tf.int64))
    found = elements(numbers, "'toy', split 'validation'")
    assert next(found) == 0
    told = "data of 'toy', split 'validation' has not come within 0.2 s"
    with pytest.raises(InputHangs, match=told):
        next(found)

"""Questions without a text: T5's splits, from both sources, and all answers of a question."""

import json

import pytest
import seqio
import tensorflow_datasets as tfds

from switch_tf.data import availability, registry
from switch_tf.errors import UserError
from switch_tf.tasks import closed_book
from tests.tasks import official_files
from tests.tasks.official_files import set_macros, write_file

pytestmark = pytest.mark.usefixtures("official")

NATURAL, WEB, TRIVIA = "natural_questions_open", "web_questions", "trivia_qa_open"
FILES = {
    NATURAL: "nq_open/NQ-open.{}.jsonl",
    WEB: "web_questions/webquestions.examples.{}.json",
    TRIVIA: "triviaqa-unfiltered/unfiltered-web-{}.json",
}
SOURCES = {
    NATURAL: closed_book.natural_questions_source,
    WEB: closed_book.web_questions_source,
    TRIVIA: closed_book.trivia_qa_source,
}
TEST = {NATURAL: "dev", WEB: "test", TRIVIA: "dev"}
# Of as many questions in a file the first four, in TFDS's order, are trained on.
QUESTIONS, TRAINED_ON = 10, 4


def file_of(name, questions):
    """The text of a published file with these questions, each of three answers."""
    if name == NATURAL:
        rows = [{"question": q, "answer": ["first", "second", "the third"]} for q in questions]
        return "".join(json.dumps(row) + "\n" for row in rows)
    if name == WEB:
        target = '(list (description first) (description second) (description "the third"))'
        return json.dumps([{"url": "u", "utterance": q, "targetValue": target} for q in questions])
    aliases = ["first", "second", "the third"]
    answer = official_files._TRIVIA["Answer"] | {"Aliases": aliases, "NormalizedAliases": aliases}
    rows = [
        official_files._TRIVIA | {"Question": q, "QuestionId": f"id of {q}", "Answer": answer}
        for q in questions
    ]
    return json.dumps({"Data": rows}, indent=4)


def write(folder, name, count=QUESTIONS):
    """The published files, with `count` questions to train on and three to test."""
    for part, number in (("train", count), (TEST[name], 3)):
        questions = [f"{part} question {i}" for i in range(number)]
        write_file(folder, FILES[name].format(part), file_of(name, questions))


@pytest.fixture
def folder(tmp_path):
    """DATA_DIR with the files of all three."""
    for name in FILES:
        write(tmp_path, name)
    set_macros(DATA_DIR=str(tmp_path))
    return tmp_path


def questions(source, split):
    dataset = source.get_dataset(split, shuffle=False)
    return [example["question"].decode() for example in dataset.as_numpy_iterator()]


@pytest.mark.parametrize("name", FILES)
def test_both_sources_hold_out_the_same_questions(name, folder, tmp_path, monkeypatch):
    """TFDS writes a dataset in an order of its own, and its positions are those of it."""
    local = SOURCES[name](TRAINED_ON)
    found = {split: questions(local, split) for split in local.splits}
    assert list(found) == ["train", "validation", "test"]

    monkeypatch.setattr(tfds.core.utils.file_utils.constants, "DATA_DIR", str(tmp_path / "tfds"))
    builder = tfds.builder(local.tfds_name, data_dir=str(tmp_path / "tfds"))
    paths = {"train": folder / FILES[name].format("train")}
    paths[local.tfds_splits["test"]] = folder / FILES[name].format(TEST[name])
    # TriviaQA's own test has no answers, and is none of the task's.
    unused = FILES[TRIVIA].format("test-without-answers")
    write_file(folder, unused, file_of(TRIVIA, ["unused"]))
    manager = tfds.download.DownloadManager
    monkeypatch.setattr(manager, "download", lambda self, urls: paths)
    monkeypatch.setattr(manager, "download_and_extract", lambda self, urls: {"unfiltered": folder})
    builder.download_and_prepare()
    set_macros(DATA_DIR=None)
    # A source of its own: SeqIO keeps the datasets that it has asked for.
    theirs = SOURCES[name](TRAINED_ON)
    for split in ("train", "validation"):
        assert questions(theirs, split) == found[split]
    assert sorted(questions(theirs, "test")) == sorted(found["test"])
    assert [theirs.num_input_examples(split) for split in found] == [4, 6, 3]

    assert sorted(found["train"] + found["validation"]) == sorted(
        f"train question {i}" for i in range(QUESTIONS)
    )
    # Not just the first of the file.
    assert sorted(found["train"]) != [f"train question {i}" for i in range(TRAINED_ON)]
    assert sorted(found["test"]) == [f"{TEST[name]} question {i}" for i in range(3)]


@pytest.mark.parametrize("name, count", [(NATURAL, 79_168), (WEB, 3_417), (TRIVIA, 78_785)])
def test_the_tasks_have_t5s_splits(name, count):
    source = seqio.TaskRegistry.get(name).source
    published = "test" if name == WEB else "validation"
    assert source.tfds_splits == {
        "train": f"train[:{count}]",
        "validation": f"train[{count}:]",
        "test": published,
    }


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut_off_before_what_is_held_out_is_one_line(name, folder):
    source = seqio.TaskRegistry.get(name).source
    with pytest.raises(UserError) as raised:
        registry.prepare(seqio.TaskRegistry.get(name))
    part = source.tfds_splits["validation"]
    count = int(part.removeprefix("train[").removesuffix(":]"))
    assert str(raised.value) == (
        f"{folder / FILES[name].format('train')}: 10 examples, but 'validation' starts after the "
        f"first {count:,} ({part} of {source.tfds_name}): the file is cut off; download it again"
    )
    assert len(source.examples("train")) == 10


def test_a_file_that_ends_where_what_is_held_out_begins_has_none_of_it(folder):
    assert len(closed_book.natural_questions_source(QUESTIONS - 1).examples("validation")) == 1
    with pytest.raises(UserError, match="10 examples, but 'validation' starts after the first"):
        closed_book.natural_questions_source(QUESTIONS).prepare()


@pytest.mark.parametrize("name", FILES)
def test_what_is_tested_is_neither_needed_nor_read_before_it_is_asked_for(name, folder):
    source = SOURCES[name](TRAINED_ON)
    test = folder / FILES[name].format(TEST[name])
    test.write_text("broken")
    source.prepare()
    with pytest.raises(UserError, match=str(test)):
        source.examples("test")
    test.unlink()
    assert availability.state(source) == "yes" and source.splits == ("train", "validation")
    source.prepare()
    (folder / FILES[name].format("train")).unlink()
    assert availability.state(source) == f"no: {FILES[name].format('train')}"


def test_a_question_that_is_left_out_moves_none_but_those_at_the_border(folder, capsys):
    path = folder / FILES[NATURAL].format("train")
    before = closed_book.natural_questions_source(TRAINED_ON)
    before = [str(example["question"]) for example in before.examples("train")]
    lines = path.read_text().splitlines(keepends=True)
    number = int(before[0].split()[-1])
    path.write_text("".join([*lines[:number], "{broken\n", *lines[number + 1 :]]))
    set_macros(BAD_DATA="skip")
    after = closed_book.natural_questions_source(TRAINED_ON).examples("train")
    assert [str(example["question"]) for example in after][:-1] == before[1:]
    assert f"{path}: 1 records skipped" in capsys.readouterr().out


def test_a_question_of_the_web_without_an_answer_is_told(folder):
    path = folder / FILES[WEB].format(TEST[WEB])
    path.write_text(json.dumps([{"url": "u", "utterance": "q", "targetValue": "(list )"}]))
    with pytest.raises(UserError, match=f"{path}: question 1: no answer in 'targetValue'"):
        closed_book.web_questions_source().examples("test")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "prediction, score", [("first", 100), ("the third", 100), ("Third", 100), ("fourth", 0)]
)
def test_any_of_the_answers_is_right(name, prediction, score, folder):
    task = seqio.TaskRegistry.get(name)
    examples = list(task.get_dataset(None, "test", shuffle=False).as_numpy_iterator())
    assert {example["targets_pretokenized"] for example in examples} <= {b"first", b"Everest"}
    targets = [task.postprocess_fn("first", example=e, is_target=True) for e in examples]
    predictions = [task.postprocess_fn(prediction, example=e) for e in examples]
    (metric,) = task.metric_fns
    assert metric(targets, predictions) == {"em": score, "f1": score}
    # Of whatever number of questions, and called again.
    assert metric(targets, predictions) == metric(targets[:1], predictions[:1])

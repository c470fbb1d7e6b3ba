"""What holds of every dataset in its official form."""

import dataclasses
import json
from collections.abc import Callable

import pytest
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from switch_tf.errors import UserError
from switch_tf.tasks import closed_book, glue, reading, squad, summarization, super_glue
from tests.helpers import on_ram
from tests.tasks import official_files
from tests.tasks.official_files import set_macros


def glue_files(files):
    part = "dev" if files.split == "validation" else files.split
    # MRPC's alone: TFDS reads one of these two.
    own = {"train": files.path, "test": files.path, "dev_ids": [*files.others, None][0]}
    return {"data_file": files.path, "split": part, "mrpc_files": own}


def cnn_files(files):
    found = {}
    for publisher, folder in zip(("cnn", "dm"), files.others, strict=True):
        urls = official_files.URLS[f"cnn_dailymail/{files.path.rsplit('/', 1)[1]}"]
        names = [official_files.story(url).rsplit("/", 1)[1] for url in urls]
        paths = [f"{folder}/{name}" for name in names]
        found[publisher] = [path for path in paths if tfds.core.as_path(path).exists()]
    return {"files": found}


def xsum_files(files):
    (folder,) = files.others
    with open(files.path) as file:
        return {"split_ids": json.load(file)[files.split], "path": folder}


def one_file(name):
    return lambda files: {name: files.path}


@dataclasses.dataclass
class Case:
    """A task, what TFDS's builder is called with, and its first example as text.

    Splits are compared with TFDS's; the last of them is evaluated.
    """

    source: Callable
    arguments: Callable
    inputs: str
    targets: str
    splits: tuple[str, ...] = ("train", "validation")


# Of these, "validation" is what lies behind tens of thousands: test_closed_book.py has it.
HELD_OUT = ("train", "test")
MNLI = ("mnli hypothesis: It is wet. premise: It rains.", "entailment")
CASES = {
    f"glue_{name}": Case(lambda name=name: glue.source(name), glue_files, inputs, targets, splits)
    for name, (inputs, targets, *splits) in {
        "cola": ("cola sentence: Rain falls.", "acceptable", "train", "test", "validation"),
        "sst2": ('sst2 sentence: a "fine film ', "positive", "train", "validation"),
        "mrpc": (
            "mrpc sentence1: Ann ran. sentence2: Ann has run.",
            "equivalent",
            *("train", "test", "validation"),
        ),
        "qqp": (
            "qqp question1: Is it wet? question2: Is it damp?",
            "duplicate",
            *("train", "test", "validation"),
        ),
        "stsb": ("stsb sentence1: Ann ran. sentence2: Ann moved.", "4.2", "train", "validation"),
        "mnli": (*MNLI, "train"),
        "mnli_matched": (*MNLI, "validation"),
        "mnli_mismatched": (*MNLI, "validation"),
        "qnli": ("qnli question: Who ran? sentence: Ann ran.", "entailment", "train", "validation"),
        "rte": (
            "rte sentence1: It rains. sentence2: It is wet.",
            "entailment",
            *("train", "validation"),
        ),
        "wnli": ("wsc: The fish ate the worm. *It* was tasty.", "The worm", "validation"),
    }.items()
}
CASES |= {
    "dpr": Case(
        super_glue.dpr_source,
        one_file("filepath"),
        "wsc: Ann asked Bob if *he* can sing.",
        "Bob",
        ("train",),
    ),
    "squad": Case(
        squad.source,
        one_file("filepath"),
        "question: What is rain ? context: Rain is water , from clouds . ",
        "water",
    ),
    "cnn_dailymail": Case(
        summarization.cnn_dailymail_source,
        cnn_files,
        "summarize: It rained \u201chard\u201d Ann ran.",
        "Ann got wet.\nIt rained!",
    ),
    "xsum": Case(
        summarization.xsum_source,
        xsum_files,
        "summarize: Rain fell.\nAnn got wet.",
        "It rained in Rome.",
    ),
    "anli_r1": Case(
        lambda: reading.anli_source(1),
        one_file("filepath"),
        "anli hypothesis: It is wet. premise: It rains.",
        "entailment",
        ("train",),
    ),
    "anli_r2": Case(
        lambda: reading.anli_source(2),
        one_file("filepath"),
        "anli hypothesis: It is wet. premise: It rains.",
        "entailment",
        ("test",),
    ),
    "anli_r3": Case(
        lambda: reading.anli_source(3),
        one_file("filepath"),
        "anli hypothesis: It is wet. premise: It rains.",
        "entailment",
        ("validation",),
    ),
    "arc_easy": Case(
        lambda: reading.arc_source("Easy"),
        one_file("filepath"),
        "arc_easy question: Which is solid? choices: (A) air (B) ice",
        "B",
        ("train",),
    ),
    "arc_challenge": Case(
        lambda: reading.arc_source("Challenge"),
        one_file("filepath"),
        "arc_challenge question: Which is solid? choices: (A) air (B) ice",
        "B",
        ("validation",),
    ),
    "winogrande_xl": Case(
        reading.winogrande_source,
        one_file("filepath"),
        "winogrande option1: cup option2: floor sentence: The cup hit it. The _ broke.",
        "option1",
        ("train", "test", "validation"),
    ),
    "natural_questions_open": Case(
        closed_book.natural_questions_source,
        one_file("file_path"),
        "nq question: who wrote hamlet",
        "William Shakespeare",
        HELD_OUT,
    ),
    "web_questions": Case(
        closed_book.web_questions_source,
        one_file("file_path"),
        "wq question: where is rome?",
        "Italy",
        HELD_OUT,
    ),
    "trivia_qa_open": Case(
        closed_book.trivia_qa_source,
        lambda files: {"files": [files.path], "web_dir": None, "wiki_dir": None},
        "trivia_qa question: Which mountain is the highest?",
        "Everest",
        HELD_OUT,
    ),
}


pytestmark = pytest.mark.usefixtures("official")


@pytest.mark.parametrize("name", CASES)
def test_local_examples_are_those_that_tfds_makes_of_the_files(name):
    case = CASES[name]
    source = case.source()
    builder = tfds.builder(source.tfds_name)
    for split in case.splits:
        made = builder._generate_examples(**case.arguments(source.split_files(split)))
        expected = [builder.info.features.encode_example(example) for _, example in made]
        # TFDS takes stories as their folder lists them.
        assert sorted(map(str, source.examples(split))) == sorted(map(str, expected))
        assert expected


def test_files_on_a_remote_file_system_give_the_same_examples(official):
    sources = {name: case.source() for name, case in CASES.items()}

    def examples():
        found = {n: [s.examples(split) for split in CASES[n].splits] for n, s in sources.items()}
        return str(found)

    expected, splits = examples(), [source.splits for source in sources.values()]
    with on_ram(official) as folder:
        set_macros(DATA_DIR=folder)
        assert examples() == expected
        assert [source.splits for source in sources.values()] == splits
        assert sources["squad"].missing() is None
    with pytest.raises(UserError, match=f"^DATA_DIR='{folder}': no such folder; give the folder"):
        examples()


@pytest.mark.parametrize("name", CASES)
def test_examples_read_as_text_and_the_right_answers_score_full_marks(name):
    case = CASES[name]
    task = seqio.get_mixture_or_task(name)
    first = next(task.get_dataset(None, case.splits[0], shuffle=False).as_numpy_iterator())
    assert first["inputs_pretokenized"].decode() == case.inputs
    assert first["targets_pretokenized"].decode() == case.targets
    ids = task.output_features["targets"].vocabulary.encode(case.targets)
    assert first["targets"].tolist() == [*ids, 1]

    examples = list(task.get_dataset(None, case.splits[-1], shuffle=False).as_numpy_iterator())
    answers = [example["targets_pretokenized"].decode() for example in examples]
    targets, predictions = (
        [
            task.postprocess_fn(answer, example=example, is_target=is_target)
            for answer, example in zip(answers, examples, strict=True)
        ]
        for is_target in (True, False)
    )
    for metric in task.metric_fns:
        values = metric(targets, predictions).values()
        assert list(values) == pytest.approx([100.0] * len(values))


@pytest.mark.parametrize("name", CASES)
def test_a_task_names_its_files_and_what_tfds_calls_it(name, official):
    source = seqio.get_mixture_or_task(name).source
    assert source.tfds_name == CASES[name].source().tfds_name
    assert set(CASES[name].splits) <= set(source.splits) <= set(source.files)
    assert all((official / source.files[split]).is_file() for split in source.splits)


@pytest.mark.parametrize("name", CASES)
def test_examples_of_either_source_are_alike_as_tensors(name):
    source, split = seqio.get_mixture_or_task(name).source, CASES[name].splits[0]
    local = source.get_dataset(split, shuffle=False).element_spec
    set_macros(DATA_DIR=None)
    with tfds.testing.mock_data(num_examples=1):
        assert source.get_dataset(split, shuffle=False).element_spec == local


@pytest.mark.parametrize(
    "name, splits",
    [
        ("winogrande_xl", ["train_xl", "validation", "test"]),
        ("natural_questions_open", ["train[:79168]", "train[79168:]", "validation"]),
        ("web_questions", ["train[:3417]", "train[3417:]", "test"]),
        ("trivia_qa_open", ["train[:78785]", "train[78785:]", "validation"]),
    ],
)
def test_splits_are_asked_of_tfds_by_its_names(name, splits):
    asked = []

    def as_dataset(builder, split, **unused):
        asked.append(split)
        return tf.data.Dataset.range(1)

    set_macros(DATA_DIR=None)
    # A source of its own: SeqIO keeps the datasets that it has asked for.
    source = CASES[name].source()
    with tfds.testing.mock_data(as_dataset_fn=as_dataset):
        for split in source.splits:
            source.get_dataset(split)
    assert asked == splits


@pytest.mark.parametrize("escaped", [False, True])
def test_control_characters_that_vocabularies_drop_are_told(tmp_path, capsys, escaped):
    lost = "\x7f\x9f" + "\x01\v\x1c" * escaped
    record = {"question": f"a{lost}b", "passage": "c\x85", "idx": 0, "label": True}
    text = json.dumps(record, ensure_ascii=escaped)
    official_files.write_file(tmp_path, "BoolQ/train.jsonl", text)
    set_macros(DATA_DIR=str(tmp_path))
    assert len(super_glue.source("boolq").examples("train")) == 1
    assert capsys.readouterr().err == (
        f"{tmp_path}/BoolQ/train.jsonl: {len(lost)} control characters, such as U+0001 or U+007F, "
        "which vocabularies drop without a blank in their place\n"
    )
    official_files.write_file(tmp_path, "SST-2/train.tsv", f"sentence\tlabel\na{lost}b\t1\n")
    glue.source("sst2").examples("train")
    assert f"SST-2/train.tsv: {len(lost)} control characters" in capsys.readouterr().err

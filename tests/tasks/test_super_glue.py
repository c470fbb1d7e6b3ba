import json
import shutil

import gin
import pytest
import seqio
import tensorflow_datasets as tfds

from switch_tf import config
from switch_tf.data import registry
from switch_tf.errors import UserError
from switch_tf.metrics.writer import read_metrics
from switch_tf.tasks import super_glue
from switch_tf.tasks.parts import rates
from switch_tf.tasks.vocabulary import t5
from switch_tf.training.train import train
from tests.tasks import super_glue_files
from tests.tasks.official_files import set_macros

TEXTS = {
    "super_glue_boolq": ("boolq passage: Rain is water. question: is rain wet", "True"),
    "super_glue_cb": ("cb hypothesis: Ann moved. premise: Ann ran.", "entailment"),
    "super_glue_copa": (
        "copa choice1: It broke. choice2: It sang. premise: The cup fell. question: effect",
        "choice1",
    ),
    "super_glue_multirc": (
        "multirc question: Who ate? answer: Ann paragraph: Sent 1: Ann ate. ",
        "True",
    ),
    "super_glue_record": (
        "record query: @placeholder left. entities: Ann, Bob, Rome passage: Ann met Bob in Rome. "
        "Bob left.",
        "Bob",
    ),
    "super_glue_rte": ("rte hypothesis: It is wet. premise: It rains.", "entailment"),
    "super_glue_wic": (
        "wic sentence1: A river bank. sentence2: A bank lends. word: bank",
        "False",
    ),
    "super_glue_wsc_train": ("wsc: The dog saw a cat and *it* barked.", "The dog"),
    "super_glue_wsc_eval": ("wsc: The dog saw a cat and *it* barked.", "The dog"),
    "dpr": ("wsc: Ann asked Bob if *he* can sing.", "Bob"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The official files, and a vocabulary trained on their words."""
    folder = tmp_path_factory.mktemp("super_glue")
    super_glue_files.write(folder)
    words = [f"{inputs} {targets}" for inputs, targets in TEXTS.values()] * 20
    t5.train(words, folder / "vocabulary.model", 80)
    return folder


@pytest.fixture(autouse=True)
def configured(folder):
    set_macros(DATA_DIR=str(folder), VOCABULARY_PATH=str(folder / "vocabulary.model"))
    yield
    gin.clear_config()


@pytest.mark.parametrize("name", TEXTS)
def test_a_task_reads_as_t5s(name):
    task = seqio.get_mixture_or_task(name)
    split = "validation" if name.endswith("_eval") else "train"
    example = next(task.get_dataset(None, split, shuffle=False).as_numpy_iterator())
    inputs, targets = TEXTS[name]
    assert example["inputs_pretokenized"].decode() == inputs
    assert example["targets_pretokenized"].decode() == targets
    ids = task.output_features["targets"].vocabulary.encode(targets)
    assert example["targets"].tolist() == [*ids, 1]


@pytest.mark.parametrize("name", super_glue._FOLDERS)
def test_local_examples_are_those_that_tfds_makes_of_the_file(name):
    source = super_glue.source(name)
    builder = tfds.builder(source.tfds_name)
    made = builder._generate_examples(source.split_files("train").path, "train")
    expected = [builder.info.features.encode_example(example) for _, example in made]
    assert str(source.examples("train")) == str(expected)
    assert source.splits == ("train", "validation")


def test_true_referents_of_wsc_are_trained_on_alone():
    task = seqio.get_mixture_or_task("super_glue_wsc_train")
    referents = [e["targets_pretokenized"] for e in task.get_dataset(None, "train")]
    assert referents == [b"The dog"]


def test_a_test_split_has_no_labels(folder, tmp_path):
    row = {k: v for k, v in super_glue_files.ROWS["BoolQ"][0].items() if k != "label"}
    (tmp_path / "BoolQ").mkdir()
    (tmp_path / "BoolQ/test.jsonl").write_text(json.dumps(row))
    set_macros(DATA_DIR=str(tmp_path))
    source = super_glue.source("boolq")
    assert source.splits == ("test",)
    assert [example["label"] for example in source.examples("test")] == [-1]


GOOD = json.dumps(super_glue_files.ROWS["BoolQ"][0])
BAD = {
    "not JSON: Expecting value": '{"question": \n',
    "no field 'passage'": '{"question": "q", "idx": 1, "label": true}\n',
    "label 1 is neither a string nor true or false": GOOD.replace("true", "1"),
    'In <ClassLabel> with name "label"': GOOD.replace("true", '"yes"'),
    "not UTF-8, at byte 15": b'{"question": "\xff"}'.decode("latin-1"),
}


@pytest.mark.parametrize("message", BAD)
def test_a_bad_record_is_named_by_file_and_line(message, tmp_path):
    path = tmp_path / "BoolQ/train.jsonl"
    path.parent.mkdir()
    path.write_bytes(f"{GOOD}\n{BAD[message]}".encode("latin-1"))
    set_macros(DATA_DIR=str(tmp_path))
    with pytest.raises(UserError) as caught:
        super_glue.source("boolq").prepare()
    assert str(caught.value).startswith(f"{path}:2: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("label", ['"0"', "7"])
def test_a_wrong_label_of_multirc_is_named(label, tmp_path):
    path = tmp_path / "MultiRC/train.jsonl"
    path.parent.mkdir()
    answer = f'{{"text": "a", "idx": 0, "label": {label}}}'
    questions = f'[{{"question": "q", "idx": 0, "answers": [{answer}]}}]'
    path.write_text(f'{{"idx": 0, "passage": {{"text": "p", "questions": {questions}}}}}\n')
    set_macros(DATA_DIR=str(tmp_path))
    with pytest.raises(UserError, match=f"{path}:1: label .* is neither 0 nor 1"):
        super_glue.source("multirc").prepare()


def test_super_glue_does_without_dpr_where_its_file_is_not_there(tmp_path, capsys):
    super_glue_files.write(tmp_path)
    shutil.rmtree(tmp_path / "definite_pronoun_resolution")
    set_macros(DATA_DIR=str(tmp_path))
    dpr = seqio.TaskRegistry.get("dpr")
    dpr.source.prepare()
    assert "is read without its split 'train'" in capsys.readouterr().out
    assert "train" not in dpr.splits and rates.examples(dpr) == 0


def test_bad_records_may_be_left_out_and_are_counted(tmp_path, capsys):
    path = tmp_path / "BoolQ/train.jsonl"
    path.parent.mkdir()
    path.write_bytes(f'{GOOD}\n{{"idx": 1}}\nnothing\n\xff\n{GOOD}\n'.encode("latin-1"))
    set_macros(DATA_DIR=str(tmp_path), BAD_DATA="skip")
    assert len(super_glue.source("boolq").examples("train")) == 2
    assert capsys.readouterr().out == (
        f"{path}: 3 records skipped (BAD_DATA='skip'), the first: {path}:2: no field 'question'\n"
    )


@pytest.mark.parametrize(
    "macros, message",
    [
        ({"DATA_DIR": "/no/such"}, "DATA_DIR='/no/such': no such folder"),
        ({"BAD_DATA": "drop"}, "BAD_DATA='drop': give 'stop' or 'skip'"),
        ({"VOCABULARY_PATH": "no.model"}, "VOCABULARY_PATH='no.model': no such file; set"),
    ],
)
def test_a_setting_that_cannot_be_is_told(macros, message):
    set_macros(**macros)
    with pytest.raises(UserError, match=message.replace("/", "\\/")):
        registry.prepare(seqio.get_mixture_or_task("super_glue_rte"))


def test_a_file_that_is_not_there_is_named(tmp_path):
    set_macros(DATA_DIR=str(tmp_path))
    with pytest.raises(UserError, match=r"RTE/train\.jsonl: no such file; DATA_DIR must contain"):
        registry.prepare(seqio.get_mixture_or_task("super_glue_rte"))


def test_an_empty_file_is_told(tmp_path):
    (tmp_path / "RTE").mkdir()
    (tmp_path / "RTE/train.jsonl").write_text("\n")
    set_macros(DATA_DIR=str(tmp_path))
    with pytest.raises(UserError, match=r"RTE/train\.jsonl: no examples in it"):
        super_glue.source("rte").examples("train")


def test_a_model_is_fine_tuned_on_all_tasks_and_reports_every_metric(folder, tmp_path):
    settings = {
        "MODEL_DIR": str(tmp_path),
        "DATA_DIR": str(folder),
        "VOCABULARY_PATH": str(folder / "vocabulary.model"),
        "MIXTURE_OR_TASK_NAME": "super_glue",
        "MIXTURE_OR_TASK_MODULE": "switch_tf.tasks.super_glue",
        "TASK_FEATURE_LENGTHS": {"inputs": 64, "targets": 8},
        "MESH_SHAPE": "batch:2",
        "NUM_EXPERTS": 4,
        "GROUPS_MULTIPLE": 2,
        "VOCAB_SIZE": 256,
        "TransformerEncoderDecoder.num_layers": 1,
        "TransformerEncoderDecoder.d_model": 16,
        "TransformerEncoderDecoder.d_ff": 32,
        "BATCH_SIZE": 4,
        "TRAIN_STEPS": 3,
        "INITIAL_CHECKPOINT_PATH": None,
    }
    files = ["models/switch_tiny.gin", "layouts/expert_data.gin", "runs/finetune.gin"]
    config.load(files, [f"{name}={value!r}" for name, value in settings.items()])
    train()
    found = {}
    for record in read_metrics(str(tmp_path)):
        if record["kind"] == "evaluation":
            found.setdefault(record["task"], {}).update(record)
    assert set(found) == {*TEXTS, "super_glue"} - {"super_glue_wsc_train", "dpr"}
    wanted = registry._averages["super_glue"]
    scores = []
    for metrics in wanted:
        values = [found[task][name] for task, name in metrics]
        assert all(0.0 <= value <= 100.0 for value in values)
        scores.append(sum(values) / len(values))
    assert found["super_glue"]["average"] == pytest.approx(sum(scores) / len(scores))

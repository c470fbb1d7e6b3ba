import re
import sys

import gin
import pytest
import seqio
import tensorflow as tf

from switch_tf.commands import main as main_module
from switch_tf.commands import tasks as command
from switch_tf.data import registry
from tasks import local_files, pydocs_examples, pydocs_parse

BYTES = seqio.ByteVocabulary(extra_ids=100)
NAMES = ("command_first", "command_second", "command_mixture")
LOCAL_TEXT = "local_text_span_corruption"


def accuracy(targets, predictions):
    return {"accuracy": 0}


def add_task(name, texts, metric_fns):
    def read(split, shuffle_files, seed=None):
        columns = {"inputs": texts, "targets": ["é" for _ in texts], "number": range(len(texts))}
        return tf.data.Dataset.from_tensor_slices({k: list(v) for k, v in columns.items()})

    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(read, ["train", "test"]),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
        output_features={k: seqio.Feature(BYTES) for k in ("inputs", "targets")},
        metric_fns=metric_fns,
    )


@pytest.fixture(autouse=True)
def _registered():
    """Two tasks of bytes and a mixture of them; gin as before afterwards."""
    add_task("command_first", ["ab", "c"], [accuracy])
    add_task("command_second", ["long " * 101], [])
    seqio.MixtureRegistry.add("command_mixture", [("command_first", 1), ("command_second", 1)])
    yield
    seqio.MixtureRegistry.remove("command_mixture")
    for name in NAMES[:2]:
        seqio.TaskRegistry.remove(name)
    gin.clear_config()


@pytest.fixture
def refused(capsys):
    """Runs the command, which must fail with status 2; returns its line of stderr."""

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main_module.main(["tasks", *arguments])
        assert stop.value.code == 2
        lines = capsys.readouterr().err.splitlines()
        return lines[-1].removeprefix("switch-tf: error: ")

    return run


@pytest.fixture
def shown(capsys):
    """Runs the command; returns its lines of stdout."""

    def run(*arguments):
        command.main(arguments)
        return capsys.readouterr().out.splitlines()

    return run


def test_without_a_name_tasks_and_mixtures_are_listed_with_splits_and_metrics(shown):
    lines = shown()
    assert [line.split()[0] for line in lines] == registry.names()
    assert [line for line in lines if line.startswith(("command_", "pydocs_f", "local"))] == [
        "command_first  task  splits: test, train  metrics: accuracy",
        "command_mixture  mixture of 2 tasks  splits: test, train  metrics: accuracy",
        "command_second  task  splits: test, train  metrics: none",
        "local_text_span_corruption  task  splits: train, validation  metrics: none",
        "pydocs_finetune  mixture of 4 tasks  splits: train, validation  metrics: accuracy, "
        "rank_accuracy, rouge",
    ]


def test_examples_are_shown_raw_as_ids_and_decoded(shown):
    assert shown("command_first", "--split=test") == [
        "--- command_first test: raw 1",
        "inputs: ab",
        "targets: é",
        "number: 0",
        "--- command_first test: raw 2",
        "inputs: c",
        "targets: é",
        "number: 1",
        "--- command_first test: tokenised 1",
        "inputs ids (3): 100 101 1",
        "inputs decoded: ab",
        "targets ids (3): 198 172 1",
        "targets decoded: é",
        "--- command_first test: tokenised 2",
        "inputs ids (2): 102 1",
        "inputs decoded: c",
        "targets ids (3): 198 172 1",
        "targets decoded: é",
    ]


def headings(lines):
    return [line for line in lines if line.startswith("---")]


def test_as_many_examples_are_shown_as_asked(shown):
    assert headings(shown("command_first", "--num_examples=1")) == [
        "--- command_first train: raw 1",
        "--- command_first train: tokenised 1",
    ]
    assert len(headings(shown("command_mixture", "--num_examples=5"))) == 3 + 5
    assert len(headings(shown("command_mixture"))) == 3 + 3


def test_a_mixture_shows_raw_examples_of_its_tasks_in_turn_and_cuts_long_ones(shown):
    lines = shown("command_mixture", "--num_examples=2")
    assert [line for line in lines if line.startswith("inputs: ")] == [
        "inputs: ab",
        "inputs: " + "long " * 100 + " ... (505 characters)",
    ]


def test_the_same_examples_are_shown_each_time(shown):
    first = shown("command_mixture", "--num_examples=20")
    assert first == shown("command_mixture", "--num_examples=20")
    assert {"inputs decoded: ab", "inputs decoded: c"} <= set(first)


def test_examples_are_cut_to_the_lengths_that_gin_gives_or_to_the_default(shown):
    cut = shown("command_second", "--gin.TASK_FEATURE_LENGTHS={'inputs': 5, 'targets': 3}")
    assert "inputs decoded: long" in cut and "inputs ids (5): 111 114 113 106 1" in cut
    assert any(line.startswith("inputs ids (128): ") for line in shown("command_second"))


def test_tasks_of_a_module_of_the_users_own_are_found(shown, refused, tmp_path, monkeypatch):
    source = f"from {__name__} import add_task\nadd_task('command_own', ['d'], [])\n"
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    (tmp_path / "command_own_tasks.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    try:
        assert "inputs decoded: d" in shown("command_own", "--module=command_own_tasks")
    finally:
        seqio.TaskRegistry.remove("command_own")
        sys.modules.pop("command_own_tasks", None)
    assert refused("command_own", "--module=command_other_tasks").startswith(
        "--module: cannot import 'command_other_tasks'"
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["command_frist"], r"no task or mixture 'command_frist' is registered; .*command_first.*"),
        (["pydocs_copa_"], r"no task or mixture 'pydocs_copa_' is registered.*pydocs_copa.*"),
        (
            ["command_first", "--split=validation"],
            "'command_first' has no split 'validation'; it has train, test",
        ),
        (
            ["command_mixture", "--split=dev"],
            "'command_mixture' has no split 'dev'; it has (train, test|test, train)",
        ),
        (["command_first", "--num_examples=0"], "--num_examples=0: give a number >= 1"),
        (
            ["command_first", "--num_examples=x"],
            "argument --num_examples: invalid int value: 'x'.*",
        ),
        (
            ["command_first", "--gin.TASK_FEATURE_LENGTHS={'inputs': 4}"],
            r"TASK_FEATURE_LENGTHS=\{'inputs': 4\}: no length for 'targets'; .*",
        ),
        (
            ["command_first", "--train_vocabulary=40"],
            f"--train_vocabulary is for {LOCAL_TEXT}, not for 'command_first'",
        ),
        (
            ["--train_vocabulary=0", "--gin.local_text.vocabulary='v'"],
            "no vocabulary has 0 pieces: give a number, such as 8000",
        ),
    ],
)
def test_what_is_wrong_in_the_call_is_one_line_and_status_2(refused, arguments, message):
    assert re.fullmatch(message, refused(*arguments))


@pytest.fixture
def files(tmp_path):
    """Gin flags that name a file of text and a vocabulary yet to be trained."""
    texts = [f"the red cat {i} and the blue dog go to green hills" for i in range(40)]
    (tmp_path / "a.txt").write_text("\n\n".join(texts))
    return (
        f"--gin.local_text.train='{tmp_path}/a.txt'",
        f"--gin.local_text.vocabulary='{tmp_path}/vocabulary.model'",
    )


def test_a_vocabulary_is_trained_and_then_used(shown, files, tmp_path):
    assert shown("--train_vocabulary=34", *files) == [
        f"wrote {tmp_path}/vocabulary.model: 34 pieces"
    ]
    lines = shown(LOCAL_TEXT, "--num_examples=1", *files)
    assert lines[:3] == [
        f"--- {LOCAL_TEXT} train: raw 1",
        "text: the red cat 0 and the blue dog go to green hills",
        f"--- {LOCAL_TEXT} train: tokenised 1",
    ]
    assert re.fullmatch(r"targets ids \(29\): 133 .* 1", lines[5])
    assert lines[6].startswith("targets decoded: <extra_id_0>")


def test_a_vocabulary_that_is_missing_is_one_line_that_says_how_to_train_one(refused, files):
    assert re.fullmatch(
        rf"local_text.vocabulary='.*': no such file; to train one: switch-tf tasks {LOCAL_TEXT} "
        "--train_vocabulary=8000 .*",
        refused(LOCAL_TEXT, *files),
    )


@pytest.mark.parametrize("checked_bytes", [1_000_000, 0])
def test_a_bad_line_of_a_file_is_one_line_and_status_2(
    shown, refused, files, tmp_path, monkeypatch, checked_bytes
):
    shown("--train_vocabulary=34", *files)
    monkeypatch.setattr(local_files, "CHECKED_BYTES", checked_bytes)
    monkeypatch.setattr(local_files, "CHECKED_DOCUMENTS", 1)
    path = tmp_path / "b.jsonl"
    path.write_text('{"text": "a"}\n{"text": \n')
    line = refused(LOCAL_TEXT, *files, f"--gin.local_text.train='{path}'")
    assert line.startswith(f"{path}:2: not JSON: ") and line.endswith("; mend or drop the line")


def test_the_docstring_tasks_are_shown_from_a_corpus_made_on_the_way(shown, tmp_path, monkeypatch):
    body = "Counts the sized apples:pears of an orchard"
    documents = [
        pydocs_parse.Document(f"{body}.\n\n{body} number {i}.", name, "n")
        for name in pydocs_examples.LABELS
        for i in range(4)
    ]
    monkeypatch.setattr(pydocs_parse, "find_libraries", dict)
    monkeypatch.setattr(pydocs_parse, "parse_libraries", lambda folders, workers: documents)
    lines = shown(
        "pydocs_summary",
        "--num_examples=1",
        f"--gin.pydocs.cache_folder='{tmp_path}'",
        "--gin.pydocs.vocabulary_size=33",
    )
    # Which document comes first is for its hash to say.
    text = lines[1].removeprefix("text: ")
    assert text in [f"{body} number {i}." for i in range(4)]
    assert lines[2] == f"summary: {body}."
    assert f"inputs decoded: summarize: {text}" in lines
    assert f"targets decoded: {body}." in lines


def test_an_error_of_the_pipeline_that_is_no_mistake_of_the_user_keeps_its_traceback(
    monkeypatch,
):
    def fail(value):
        raise KeyError("a defect")

    provider = seqio.get_mixture_or_task("command_first")
    failing = provider.source.get_dataset("train").map(
        lambda example: {"inputs": tf.numpy_function(fail, [example["inputs"]], tf.string)}
    )
    monkeypatch.setattr(provider.source, "get_dataset", lambda *args, **kwargs: failing)
    with pytest.raises(tf.errors.OpError, match="a defect"):
        command.main(["command_first"])

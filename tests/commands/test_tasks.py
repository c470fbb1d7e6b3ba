import functools
import re
import sys
import types

import gin
import pytest
import seqio
import tensorflow as tf

from switch_tf.commands import checks
from switch_tf.commands import main as main_module
from switch_tf.commands import tasks as command
from switch_tf.data import registry
from switch_tf.tasks.docstrings import examples, parse
from switch_tf.tasks.sources import local_files

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


def test_without_a_name_tasks_and_mixtures_are_listed_with_what_they_read(shown):
    heading, *lines = shown()
    names = [line.split()[0] for line in lines]
    assert sorted(names) == registry.names()
    # The parts of mixtures, such as languages, come last.
    are_parts = ["." in name for name in names]
    assert are_parts == sorted(are_parts) and "mc4.en" in names
    cells = [re.split("  +", line) for line in lines if line.startswith(("command_", "pydocs_f"))]
    assert re.split("  +", heading) == [
        *("name", "kind", "source", "splits", "data available", "metrics"),
    ]
    assert cells == [
        ["command_first", "task", "function read", "train, test", "yes", "accuracy"],
        ["command_mixture", "mixture of 2", "those of its tasks", "train, test", "yes", "accuracy"],
        ["command_second", "task", "function read", "train, test", "yes", "none"],
        [
            *("pydocs_finetune", "mixture of 4", "those of its tasks", "train, validation", "yes"),
            "accuracy, rank_accuracy, rouge",
        ],
    ]


def test_columns_of_the_list_are_aligned_and_no_wider_than_needed(shown):
    lines = shown()
    starts = [match.end() for match in re.finditer("(?<=[a-z])  +", lines[0])]
    for start in starts:
        assert {line[start - 2 : start] for line in lines} == {"  "}
        assert any(line[start - 3] != " " for line in lines)
        assert all(line[start] != " " for line in lines)
    assert all(line == line.rstrip() for line in lines)


def test_the_list_says_what_is_missing_where_gin_says(shown, tmp_path):
    (tmp_path / "RTE").mkdir()
    (tmp_path / "RTE/train.jsonl").write_text("{}")
    lines = shown(f"--gin.DATA_DIR='{tmp_path}'", f"--gin.local_text.train='{tmp_path}/no.txt'")
    found = {line.split()[0]: re.split("  +", line)[1:5] for line in lines}
    assert found[LOCAL_TEXT][3] == f"no: no file matches {tmp_path}/no.txt"
    assert found["super_glue_rte"] == [
        *("task", "super_glue/rte:1.0.2 or DATA_DIR/RTE", "train", "no: RTE/val.jsonl"),
    ]
    assert found["super_glue"][3] == "no: missing for 9 of its tasks"


def test_a_mixture_needs_no_task_without_a_split(shown, tmp_path):
    (tmp_path / "multilingual").mkdir()
    for name in ("zu", "zu-validation"):
        (tmp_path / f"multilingual/c4-{name}.0.json.gz").write_bytes(b"")
    lines = shown(f"--gin.DATA_DIR='{tmp_path}'")
    found = {line.split()[0]: re.split("  +", line)[3:5] for line in lines}
    assert found["mc4"] == ["train, validation", "yes"]
    assert found["mc4.zu"] == ["train, validation", "yes"]
    assert found["mc4.en"][0] == "none" and found["mc4.en"][1].startswith("no: ")


def test_metrics_of_both_kinds_are_named():
    class OfAClass(seqio.metrics.Metric):
        pass

    task = types.SimpleNamespace(
        metric_fns=[accuracy],
        _metric_objs_constructor_args=[
            OfAClass,
            OfAClass(model_output_type=seqio.metrics.ModelOutputType.SCORE),
            seqio.metrics.PassthroughLegacyMetric.from_metric_fn(accuracy),
        ],
    )
    assert list(command._metrics(task)) == ["accuracy", "OfAClass", "OfAClass", "accuracy"]


def test_metrics_have_the_names_of_what_makes_them():
    def make():
        def fn(targets, predictions):
            return {}

        return fn

    name = command._metric_name
    assert name(functools.partial(functools.partial(accuracy), predictions=None)) == "accuracy"
    assert name(make()) == "test_metrics_have_the_names_of_what_makes_them"


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
            "--split='validation': 'command_first' has no such split; it has test, train",
        ),
        (
            ["command_mixture", "--split=dev"],
            "--split='dev': 'command_mixture' has no such split; it has test, train",
        ),
        (["command_first", "--num_examples=0"], "--num_examples=0: give a number >= 1"),
        (
            ["command_first", "--num_examples=x"],
            "argument --num_examples: invalid int value: 'x'.*",
        ),
        (
            ["command_first", "--gin.TASK_FEATURE_LENGTHS={'inputs': 4}"],
            r"--gin\.TASK_FEATURE_LENGTHS=\{'inputs': 4\}: give \{'inputs': .*",
        ),
        (
            ["command_first", "--train_vocabulary=40", "--gin.VOCABULARY_PATH='no'"],
            "task 'command_first' has its own vocabulary for 'inputs', a ByteVocabulary, so .*",
        ),
        (
            [LOCAL_TEXT, "--train_vocabulary=40", f"--gin.VOCABULARY_PATH='{__file__}'"],
            f"VOCABULARY_PATH='{re.escape(__file__)}' already exists: give another path, or .*",
        ),
        (
            [LOCAL_TEXT, "--train_vocabulary=0", "--gin.VOCABULARY_PATH='v'"],
            "a vocabulary cannot have 0 pieces: give a number, such as 8000",
        ),
        (
            ["--train_vocabulary=40"],
            "--train_vocabulary needs a task or mixture: switch-tf tasks NAME --train_vocabulary",
        ),
        (["--statistics"], "--statistics needs a task or mixture: .*"),
        (["command_first", "--statistics=0"], "--statistics=0: give a number >= 1"),
        (
            ["command_first", "--statistics", "--split=dev"],
            "--split='dev': 'command_first' has no such split.*",
        ),
        (
            ["command_first", "--train_vocabulary=40", "--character_coverage=1.5"],
            "--character_coverage=1.5: give a share from 0.98 to 1",
        ),
        (["command_first", "--normalization=identity"], "--normalization needs --train_vocabulary"),
        (
            ["command_first", "--train_vocabulary=40", "--statistics"],
            "argument --statistics: not allowed with argument --train_vocabulary.*",
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
        f"--gin.VOCABULARY_PATH='{tmp_path}/vocabulary.model'",
    )


def test_a_vocabulary_is_trained_and_then_used(shown, files, tmp_path):
    assert shown(LOCAL_TEXT, "--train_vocabulary=34", *files) == [
        f"wrote {tmp_path}/vocabulary.model: 34 pieces; a model needs VOCAB_SIZE >= 134, "
        "such as 256",
        "all 1,510 characters of the text that are not blank have a piece",
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
        "VOCABULARY_PATH='.*': no such file; set .* with switch-tf tasks NAME "
        "--train_vocabulary=8000 and the --gin flags of the run",
        refused(LOCAL_TEXT, *files),
    )


def test_a_vocabulary_is_trained_on_a_task_of_a_module_of_ones_own(shown, tmp_path, monkeypatch):
    module = (
        "import seqio\nfrom switch_tf.tasks.vocabulary.t5 import T5_OUTPUT_FEATURES\n"
        "seqio.TaskRegistry.add('command_lines', seqio.TextLineDataSource({'train': 'a.txt'}), "
        "preprocessors=[lambda d: d.map(lambda line: {'targets': line}), "
        "seqio.preprocessors.tokenize], output_features=T5_OUTPUT_FEATURES)\n"
    )
    (tmp_path / "command_line_tasks.py").write_text(module)
    (tmp_path / "a.txt").write_text("".join(f"the red cat {i} sees a dog\n" for i in range(40)))
    monkeypatch.chdir(tmp_path)
    try:
        shown(
            *("command_lines", "--module=command_line_tasks", "--train_vocabulary=27"),
            "--gin.VOCABULARY_PATH='v.model'",
        )
        assert (tmp_path / "v.model").exists()
    finally:
        seqio.TaskRegistry.remove("command_lines")
        sys.modules.pop("command_line_tasks", None)


def test_statistics_are_of_the_lengths_that_gin_gives(shown):
    lengths = "--gin.TASK_FEATURE_LENGTHS={'inputs': 4, 'targets': 4}"
    assert shown("command_first", "--statistics", "--split=test", lengths) == [
        "command_first test: the first 2 examples, in tokens before trimming",
        "",
        "feature  length  min  mean  p50  p95  max  truncated  unknown",
        "inputs   4       2    2.5   2    3    3    0.0%       0%",
        "targets  4       3    3.0   3    3    3    0.0%       0%",
        "",
        "          rows  padding",
        "unpacked  2     31.2%",
        "packed    2     31.2%",
    ]
    (first, *_) = shown("command_mixture", "--statistics=1", "--split=test", lengths)
    assert first == "command_mixture test: the first 1 examples, in tokens before trimming"


def test_lengths_that_are_not_given_are_told(shown):
    lines = shown("command_first", "--statistics", "--split=test")
    assert lines[1] == "TASK_FEATURE_LENGTHS is not set; taken as inputs 128, targets 36"
    assert lines[4].split()[:2] == ["inputs", "128"]


@pytest.mark.parametrize("checked_bytes", [1_000_000, 0])
def test_a_bad_line_of_a_file_is_one_line_and_status_2(
    shown, refused, files, tmp_path, monkeypatch, checked_bytes
):
    shown(LOCAL_TEXT, "--train_vocabulary=34", *files)
    monkeypatch.setattr(local_files, "CHECKED_BYTES", checked_bytes)
    monkeypatch.setattr(local_files, "CHECKED_DOCUMENTS", 1)
    path = tmp_path / "b.jsonl"
    path.write_text('{"text": "a"}\n{"text": \n')
    line = refused(LOCAL_TEXT, *files, f"--gin.local_text.train='{path}'")
    assert line.startswith(f"{path}:2: not JSON: ") and line.endswith("; fix or remove the line")


def test_the_docstring_tasks_are_shown_from_a_corpus_made_on_the_way(shown, tmp_path, monkeypatch):
    body = "Counts the sized apples:pears of an orchard"
    documents = [
        parse.Document(f"{body}.\n\n{body} number {i}.", name, "n")
        for name in examples.LABELS
        for i in range(4)
    ]
    monkeypatch.setattr(parse, "find_libraries", dict)
    monkeypatch.setattr(parse, "parse_libraries", lambda folders, workers: documents)
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


def failing(monkeypatch, function):
    """Puts a function of Python that fails into the source of a task."""

    def called(text):
        return tf.ensure_shape(tf.numpy_function(function, [text], tf.string), [])

    provider = seqio.get_mixture_or_task("command_first")
    dataset = provider.source.get_dataset("train").map(
        lambda example: example | {"inputs": called(example["inputs"])}
    )
    monkeypatch.setattr(provider.source, "get_dataset", lambda *args, **kwargs: dataset)


def test_a_defect_in_the_pipeline_keeps_its_traceback(monkeypatch):
    failing(monkeypatch, lambda value: checks.check_spans(0))
    with pytest.raises(tf.errors.OpError, match="has no attribute"):
        command.main(["command_first"])


def test_an_error_in_a_users_function_is_one_line_with_its_place(refused, monkeypatch):
    def fail(value):
        raise KeyError("a mistake")

    failing(monkeypatch, fail)
    told = refused("command_first")
    assert told.startswith("'command_first', split 'train': ")
    assert told.endswith(", in fail: KeyError: 'a mistake'")

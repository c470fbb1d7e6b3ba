"""docs/fidelity.md: what it says of our defaults holds, and no default is left out."""

import ast
import functools
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import gin
import pytest

from switch_tf import config, configurables, gin_files
from switch_tf.layers.base import Layer
from switch_tf.layers.norm import RMSNorm

TEXT = (Path(__file__).parent.parent / "docs" / "fidelity.md").read_text(encoding="utf-8")
COLUMNS = [
    "what",
    "setting",
    "ours",
    "Mesh-TensorFlow, T5",
    "T5X, Flaxformer",
    "Hugging Face",
    "why, where they differ",
]
NOTHING = "–"

# Whose defaults the page has: the layers and what gin can set in these packages and modules.
PACKAGES = ("switch_tf.layers", "switch_tf.models", "switch_tf.optimizers", "switch_tf.tasks")
MODULES = (
    "switch_tf.training.step",
    "switch_tf.training.train",
    "switch_tf.data.task_data",
    "switch_tf.setup.mesh_model",
    "switch_tf.evaluation.settings",
)

MODEL = "the model gives it what is on the page as the model's"
LAYER = "the Switch layer gives it what is on the page as the layer's"
TIMES = "when something is done, not what it gives"
DATA = "which data, not what becomes of them"
PARTS = "there is one kind; the page has its parameters"
MESH = "the same numbers on every mesh"
RATE = "there is none by default; the page has the schedules"
# Parameters with a default, and why the page need not have them.
OFF_PAGE = {
    "Attention.dropout_rate": MODEL,
    "Attention.init_scale": MODEL,
    "Attention.float32_logits": MODEL,
    "SwitchAttention.dropout_rate": MODEL,
    "SwitchAttention.init_scale": MODEL,
    "SwitchAttention.float32_logits": MODEL,
    "SwitchAttention.projection": "a Switch layer; the page has what differs in one",
    "ProjectionExperts.init_scale": LAYER,
    "Dropout.rate": MODEL,
    "Dropout.broadcast_axes": "the page says of each use of it where one mask serves several",
    "Embedding.float32_logits": MODEL,
    "Softmax.init_scale": MODEL,
    "Softmax.float32_logits": MODEL,
    "FeedForward.activation": MODEL,
    "FeedForward.dropout_rate": MODEL,
    "FeedForward.init_scale": MODEL,
    "Experts.activation": LAYER,
    "Experts.dropout_rate": LAYER,
    "Experts.init_scale": LAYER,
    "SwitchFFN.activation": MODEL,
    "SwitchFFN.expert_dropout_rate": MODEL,
    "SwitchLayer.dispatcher": "both give the same",
    "ZipfRouter.exponent": "it measures speed, and trains nothing",
    "Residual.dropout_rate": MODEL,
    "Block.self_attention": MODEL,
    "Block.dropout_rate": MODEL,
    "Stack.dropout_rate": MODEL,
    "Stack.rematerialize": MODEL,
    "TransformerEncoderDecoder.seed": "a run passes its own",
    "TransformerEncoderDecoder.rematerialize": "the same numbers, in less memory",
    "Adafactor.learning_rate": RATE,
    "AdamW.learning_rate": RATE,
    "Evaluation.period": TIMES,
    "Evaluation.decode_period": TIMES,
    "Evaluation.predictions": "it writes what a run computes anyway",
    "Evaluation.keep_best": TIMES,
    "Evaluation.early_stopping": TIMES,
    "ModelSetup.model": "there is one model",
    "ModelSetup.mesh_shape": MESH,
    "ModelSetup.layout_rules": MESH,
    "TaskData.use_cached": "the page has USE_CACHED_TASKS",
    "TaskData.shares": "by default, there is one: SeqIO's own order",
    "train.checkpoint_period": TIMES,
    "train.keep_checkpoints": TIMES,
    "train.keep_period": TIMES,
    "train.initial_checkpoint_path": DATA,
    "train.initial_checkpoint_fresh": DATA,
    "train.initial_checkpoint_skipped": DATA,
    "TrainStep.frozen": "nothing is frozen unless it is asked for",
    "train.data": PARTS,
    "train.distillation": "there is no teacher unless one is asked for",
    "TrainStep.teacher": "see train.distillation",
    "train.setup": PARTS,
    "train.evaluation": PARTS,
    "train.profile_steps": "a flag: it watches a run, and changes nothing in it",
    "TaskData.mixture_or_task_name": DATA,
    "TaskData.module": DATA,
    "TaskData.seed": "the page has SEED",
    "mc4.train": DATA,
    "mc4.validation": DATA,
    "mc4.languages": DATA,
    "c4.train": DATA,
    "c4.validation": DATA,
    "local_text.train": DATA,
    "local_text.validation": DATA,
    "pydocs.cache_folder": DATA,
    "pydocs.vocabulary_size": "of Python's own documentation, which only this project trains on",
}


def rows(text):
    """Line number and cells of each row of the tables."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("|") and not line.startswith("| ---"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if cells != COLUMNS:
                yield number, cells


def settings(cell):
    """(name, gin file or "") of each setting in a cell."""
    found = re.findall(r"`([^`]+)`(?: in ([\w/]+\.gin))?", cell)
    written = ", ".join(f"`{name}`" + f" in {file}" * bool(file) for name, file in found)
    assert cell == (written or NOTHING), cell
    return found


def values(cell, count):
    """The first `count` values in a cell, or the one that it has for all."""
    found = re.findall(r"`([^`]+)`", cell)
    assert len(found) >= count or len(found) == 1, f"{len(found)} values for {count} settings"
    return (found * count if len(found) == 1 else found)[:count]


def listed(text):
    """The settings on a page that have no file: names of defaults in code."""
    return {name for _, cells in rows(text) for name, file in settings(cells[1]) if not file}


@functools.cache
def declared():
    """Names as gin resolves them -> what the project and T5 declare."""
    return configurables.selector_map(configurables.project_source())


def in_scope(module):
    return module in MODULES or module.startswith(tuple(f"{package}." for package in PACKAGES))


@functools.cache
def owners():
    """Name -> class or function whose defaults the page has."""
    names = [
        f"{package}.{module.name}"
        for package in PACKAGES
        if package != "switch_tf.tasks"  # It has no layers, and to import a task registers it.
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__)
    ]
    found = {}
    for module in map(importlib.import_module, names):
        for name, value in vars(module).items():
            if inspect.isclass(value) and issubclass(value, Layer) and value is not Layer:
                if value.__module__ == module.__name__:
                    found[name] = value
    for configurable in configurables.project_source().configurables:
        if configurable.module and in_scope(configurable.module):
            found.setdefault(configurable.selector.rpartition(".")[2], configured(configurable))
    return found


def configured(configurable):
    """The class or function that gin configures by a name."""
    module = importlib.import_module(configurable.module)
    value = getattr(module, configurable.selector.rpartition(".")[2], None)
    # gin's name of a function need not be its own.
    return value if inspect.isclass(value) else gin.get_configurable(configurable.selector)


def own_defaults(owner):
    """Parameter -> default, without those that a class has from its bases."""
    function = owner
    if inspect.isclass(owner):
        function = vars(owner).get("__init__")
        # gin gives a class without a constructor a copy of the inherited one.
        if getattr(inspect.unwrap(function), "__qualname__", "") != f"{owner.__name__}.__init__":
            function = None
    parameters = inspect.signature(function).parameters.values() if function else ()
    found = {p.name: p.default for p in parameters if p.default not in (p.empty, gin.REQUIRED)}
    if inspect.isclass(owner):
        # A class's own value of a parameter that is None in the signature.
        own = {name: value for name, value in vars(owner).items() if name.startswith("default_")}
        found |= {name.removeprefix("default_"): value for name, value in own.items()}
    return found


def default(name):
    """The default of `Class.parameter` or `function.parameter`, or a constant of a module."""
    owner, _, parameter = name.rpartition(".")
    if owner.startswith("switch_tf."):
        return getattr(importlib.import_module(owner), parameter)
    known = [declared()[found] for found in declared().matching_selectors(owner)]
    assert len(known) < 2, f"{owner} is one of several"
    value = configured(known[0]) if known else owners().get(owner)
    for base in inspect.getmro(value) if inspect.isclass(value) else filter(None, [value]):
        found = own_defaults(base)
        if parameter in found:
            return found[parameter]
    raise AssertionError(f"no parameter {name} with a default")


@functools.cache
def in_file(name):
    """Value by macro or parameter that a gin file gives."""
    return gin_files.read([name]).literals()


def same(text, value):
    """Whether a value as the page writes it is the value; 0 is neither 0.0 nor False."""
    if text.startswith("@"):
        return text[1:] == getattr(value, "__name__", None)
    dividend, _, divisor = text.partition(" / ")
    written = ast.literal_eval(dividend)
    return repr(written / ast.literal_eval(divisor) if divisor else written) == repr(value)


def wrong(text):
    """What a page says of our defaults that does not hold, one line each."""
    found = []
    for number, cells in rows(text):
        try:
            names = settings(cells[1])
            for (name, file), said in zip(names, values(cells[2], len(names)), strict=True):
                value = in_file(file)[name] if file else default(name)
                if not same(said, value):
                    found.append(f"line {number}: {name} is {value!r}, not {said}")
        except (AssertionError, LookupError, ValueError, SyntaxError, AttributeError) as error:
            found.append(f"line {number}: {error}")
    return found


def left_out(text):
    """Parameters with a default that a page has no row for, and `OFF_PAGE` no reason."""
    every = {f"{name}.{p}" for name, owner in owners().items() for p in own_defaults(owner)}
    # Gin's names may have a module in front.
    on_page = {".".join(name.split(".")[-2:]) for name in listed(text)}
    return sorted(every - on_page - set(OFF_PAGE))


def line_of(name):
    """Number of the line whose row is about a setting."""
    (line,) = (number for number, cells in rows(TEXT) if f"`{name}`" in cells[1])
    return line


def changed(old, new):
    """The page with one place changed."""
    assert TEXT.count(old) == 1
    return TEXT.replace(old, new)


def test_all_tables_have_the_same_columns_and_a_reason_where_ours_is_not_mesh_tensorflows():
    heads = [line for line in TEXT.splitlines() if line.startswith("| what |")]
    assert heads == ["| " + " | ".join(COLUMNS) + " |"] * TEXT.count("\n## ")
    assert len(list(rows(TEXT))) > 80
    for number, cells in rows(TEXT):
        assert len(cells) == len(COLUMNS), f"line {number}"
        assert all(cells[:-1]), f"line {number}"
        assert cells[-1] or cells[3].startswith("same"), f"line {number}"


def test_the_values_that_the_page_calls_ours_are_those_of_the_code_and_of_the_gin_files():
    assert wrong(TEXT) == []


def test_every_parameter_with_a_default_is_on_the_page_or_has_a_reason_not_to_be():
    assert left_out(TEXT) == []


def test_the_parameters_left_off_the_page_exist_and_are_not_on_it():
    every = {f"{name}.{p}" for name, owner in owners().items() for p in own_defaults(owner)}
    assert set(OFF_PAGE) <= every
    assert not set(OFF_PAGE) & listed(TEXT)


def test_gin_can_set_what_is_on_the_page_unless_its_head_says_that_it_cannot():
    head = TEXT.partition("\n## ")[0]
    for name in listed(TEXT):
        owner, _, parameter = name.rpartition(".")
        known = [declared()[found] for found in declared().matching_selectors(owner)]
        takes = known[0].parameters if known else ()
        assert takes is None or parameter in takes or f"`{owner}`" in head, name


@pytest.mark.parametrize("name", ["pretrain", "finetune", "paper_pretrain", "paper_finetune"])
def test_the_settings_for_the_numbers_of_mesh_tensorflow_pass_the_checks(tmp_path, name):
    (block,) = re.findall(r"^```gin\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    file = tmp_path / "mesh_tensorflow.gin"
    file.write_text(block)
    run = ["models/switch_base.gin", f"runs/{name}.gin"]
    needed = [
        f"{name}='/tmp/x'"
        for name, setting in gin_files.read(run).macros.items()
        if setting.value == gin_files.REQUIRED
    ]
    given = config.precheck([*run, str(file)], needed)
    assert gin_files.read([str(file)]).literals().items() <= given.items()


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("| `4`, at most the group |", "| `5`, at most the group |", "Router.min_capacity is 4"),
        ("| `16000` (Sec. 4.2)", "| `500` (Sec. 4.2)", "TRAIN_STEPS is 16000, not 500"),
        ("| `@Adafactor`,", "| `@SGD`,", "ModelSetup.optimizer is <class"),
        ("`RMSNorm.epsilon`", "`RMSNorm.eps`", "no parameter RMSNorm.eps"),
        ("`Top2Router.second_threshold`, ", "", "Top2Router.eval_second_policy is None"),
        ("`16_384`", "16,384", "EVAL_SHUFFLE_EXAMPLES is 16384, not 42"),
        ("`SEED` in runs/common.gin", "`SEED` in runs/plan.gin", "'SEED'"),
    ],
)
def test_a_page_that_the_code_contradicts_is_found(old, new, told):
    before = wrong(TEXT)
    lines = [line for line in wrong(changed(old, new)) if line not in before]
    assert any(told in line for line in lines)


def test_a_default_that_changes_in_the_code_is_found(monkeypatch):
    before = wrong(TEXT)
    monkeypatch.setattr(RMSNorm.__init__, "__defaults__", (1e-5,))
    line = line_of("RMSNorm.epsilon")
    told = f"line {line}: RMSNorm.epsilon is 1e-05, not 1e-6"
    assert [line for line in wrong(TEXT) if line not in before] == [told]


def test_a_parameter_without_a_row_is_found():
    row = TEXT.splitlines()[line_of("Router.min_capacity") - 1]
    found = set(left_out(changed(row + "\n", "")))
    assert found - set(left_out(TEXT)) == {"Router.min_capacity"}

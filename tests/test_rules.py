"""What a parameter may be, before TensorFlow's start and at a call, as its annotation says."""

import importlib
import inspect
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import gin
import keras
import pytest
from hypothesis import given
from hypothesis import strategies as st

from switch_tf import config, configurables, rules
from switch_tf.errors import UserError
from switch_tf.layers.router import SwitchRouter
from switch_tf.metrics.load_watch import LoadWatch

# What only code gives, and what a library's class may be.
OPEN = {
    *("TrainStep.model", "TrainStep.optimizer", "TrainStep.mesh", "TrainStep.teacher"),
    "Router.dtype",
}


def constructor(configurable):
    """The function, or the class's own constructor, behind gin's wrapper; None without one."""
    importlib.import_module(configurable.module)
    target = gin.get_configurable(configurable.selector)
    if not inspect.isclass(target):
        return target.__wrapped__
    wrapped = vars(target)["__init__"].__wrapped__
    return wrapped if wrapped.__qualname__.startswith(f"{target.__name__}.") else None


def declarations():
    """(configurable, parameter, annotation) of ours, those of a class without its bases'."""
    for found in configurables.project_source().configurables:
        if (found.module or "").startswith("switch_tf."):
            function = constructor(found)
            own = inspect.signature(function).parameters if function else ()
            yield from ((found, p, a) for p, a in found.parameters.items() if p in own)


DECLARED = list(declarations())
COUNTS = [
    (found, parameter)
    for found, parameter, annotation in DECLARED
    if rules.mark(annotation, rules.Axis)
    or rules.Count in (annotation, *typing.get_args(annotation))
    and typing.get_origin(annotation) is not Sequence
]


def call(found, **given):
    """Calls a configurable, without gin."""
    function, target = constructor(found), gin.get_configurable(found.selector)
    of_class = [object.__new__(target)] if inspect.isclass(target) else []
    return function(*of_class, **given)


def names(declared):
    return [f"{found.name}.{parameter}" for found, parameter, *_ in declared]


@pytest.mark.parametrize("found, parameter, annotation", DECLARED, ids=names(DECLARED))
def test_an_annotation_is_understood_and_the_default_fits_it(found, parameter, annotation):
    is_open = f"{found.name}.{parameter}" in OPEN
    assert is_open == rules.fits(object(), annotation), "annotate it, as in switch_tf.rules"
    function = constructor(found)
    default = inspect.signature(function).parameters[parameter].default
    if default not in (inspect.Parameter.empty, gin.REQUIRED):
        assert rules.fits(default, annotation)
    # As the source was read, so it is when it runs.
    at_call = typing.get_type_hints(function, include_extras=True).get(parameter, Any)
    if not is_open:
        assert rules.wanted(annotation) == rules.wanted(at_call)


@pytest.mark.parametrize("value", [0, -3, 1.5, True, "3", [1]])
@pytest.mark.parametrize("found, parameter", COUNTS, ids=names(COUNTS))
def test_every_count_is_a_whole_number_of_at_least_one(found, parameter, value):
    line = f"{parameter}={value!r}: give a whole number of at least 1"
    with pytest.raises(UserError) as before:
        config.precheck([], [f"{found.selector}.{parameter}={value!r}"])
    assert str(before.value).startswith(f"--gin.{found.selector}.{line}")
    with pytest.raises(UserError) as at_call:
        call(found, **{parameter: value})
    assert str(at_call.value).startswith(f"{found.name}.{line}")


def test_counts_of_all_kinds_of_configurables_are_found():
    assert {
        *("train.train_steps", "TaskData.batch_size", "bench_input.rounds"),
        *(
            "Evaluation.batches",
            "TrainStep.microbatches",
            "SwitchLayer.group_size",
            "rsqrt.warmup_steps",
        ),
        *("TransformerEncoderDecoder.d_model", "SwitchFFN.num_experts", "pydocs.vocabulary_size"),
    } <= set(names(COUNTS))


@pytest.mark.parametrize(
    "annotation, fitting, others",
    [
        (bool, [True, False], [1, 0, "True", None]),
        (int, [0, -1], [True, 1.0, "1", None]),
        (float, [0.5, 2], [True, "0.5", None, float("inf"), float("nan"), 2**63]),
        (str, ["", "a"], [1, None, ["a"], b"a", "\0", "\ud800"]),
        (rules.Path, ["a", Path("a")], ["", " ", "a\0b", None]),
        (Literal[1, 2], [1, 2], [True, 1.0, "1"]),
        (rules.VariablePatterns, [["router", "a|b"], ()], ["router", ["("], ["a{9999999999}"]]),
        # A class that is not known takes any object, but no text or number beside a type that is.
        (Literal["a"] | keras.DTypePolicy, ["a", keras.DTypePolicy("float32")], ["b", 1, None]),
        (keras.DTypePolicy | None, ["b", 1, None], []),
        (rules.Whole, [0, 5], [-1, 0.0, False]),
        (rules.Seed, [0, 2**31 - 1], [-1, 2**31, True]),
        (rules.Rate, [0, 0.999], [1, 1.0, -0.1, float("nan"), "0"]),
        (rules.Positive, [0.1, 3], [0, -1, float("nan")]),
        (rules.NonNegative, [0, 2.5], [-0.1, None]),
        (rules.Count | None, [None, 1], [0, "None"]),
        (Literal["a", "b"], ["a"], ["c", 1]),
        (Sequence[rules.Count], [[1, 2], (), (3,)], [[0], "12", b"12", 1, None]),
        (rules.Pattern | Sequence[rules.Pattern], ["a", ["a", "b"]], [1, [1]]),
        (rules.Lengths, [{"inputs": 1, "targets": 2}], [5, {"inputs": 1, "targets": 0}]),
        (typing.Callable[[], int], [print, int], [1, "print", None]),
        (Any, [1, None, print], []),
        # Of other classes, what code gives is not looked at.
        (SwitchRouter, [1, None], []),
    ],
)  # fmt: skip
def test_what_fits_an_annotation(annotation, fitting, others):
    assert [value for value in fitting if not rules.fits(value, annotation)] == []
    assert [value for value in others if rules.fits(value, annotation)] == []


@given(st.integers() | st.floats() | st.text() | st.booleans() | st.none())
def test_a_count_is_no_more_than_whole_numbers_above_zero(value):
    assert rules.fits(value, rules.Count) == (type(value) is int and 0 < value < 2**63)


def test_who_calls_from_python_is_told_the_class_that_was_called():
    with pytest.raises(UserError, match="^SwitchRouter.dropless=1: give True or False"):
        SwitchRouter(4, dropless=1)
    with pytest.raises(UserError, match="^LoadWatch.steps=0: give a whole number of at least 1"):
        LoadWatch(0.7, 0)


def test_one_annotation_makes_a_rule_at_a_call_too():
    @rules.checked
    def wait(seconds: rules.Positive, times: "rules.Count | None" = None):
        return seconds, times

    assert wait(2, times=3) == (2, 3)
    with pytest.raises(UserError, match="^wait.seconds=0: give a number above 0$"):
        wait(0)
    with pytest.raises(
        UserError, match="^wait.times=0: give a whole number of at least 1 or None$"
    ):
        wait(1, 0)


RUN = ["models/switch_tiny.gin", "layouts/expert_data.gin", "runs/pretrain.gin"]


@pytest.mark.parametrize(
    "flag, line",
    [
        ("PACK='yes'", "PACK='yes': give True or False"),
        ("ModelSetup.optimizer=@Adafactor()", "ModelSetup.optimizer=@Adafactor(): give @Adafactor"),
        ("train.evaluation=@Evaluation()", "train.evaluation=@Evaluation(): give @Evaluation"),
        (
            "ModelSetup.model='T5'",
            "ModelSetup.model='T5': give a function or a class that makes "
            "`TransformerEncoderDecoder`, written @NAME",
        ),
        (
            "ModelSetup.optimizer=@TransformerEncoderDecoder",
            "ModelSetup.optimizer=@TransformerEncoderDecoder: give a function or a class that "
            "makes `Optimizer`, written @NAME",
        ),
        (
            "train.data=@ModelSetup",
            "train.data=@ModelSetup: give a function or a class that makes `TaskData`, "
            "written @NAME",
        ),
        (
            "Router.policy='best'",
            "Router.policy='best': give 'argmax', 'sample', 'input_dropout' ",
        ),
        ("BAD_DATA=3", "BAD_DATA=3: give 'stop' or 'skip'"),
        ("CACHE_DIR=3", "CACHE_DIR=3: give a path in quotes"),
        ("DATA_DIR=3", "DATA_DIR=3: give a path in quotes"),
        (
            "Adafactor.learning_rate=@schedules.rsqrt",
            "Adafactor.learning_rate=@schedules.rsqrt: give @schedules.rsqrt()",
        ),
        (
            "Adafactor.learning_rate=0.1",
            "Adafactor.learning_rate=0.1: give a schedule: @schedules.",
        ),
        (
            "SwitchLayer.router=@scope/SwitchRouter()",
            "SwitchLayer.router=@scope/SwitchRouter(): give @scope/SwitchRouter",
        ),
        ("BATCH_SIZE=@Adafactor", "BATCH_SIZE=@Adafactor: give a whole number of at least 1"),
        ("TaskData.use_cached=%GROUP_SIZE", "GROUP_SIZE=2048: give True or False"),
    ],
)
def test_gin_is_told_what_its_value_should_be(flag, line):
    with pytest.raises(UserError) as told:
        config.precheck(RUN, ["MODEL_DIR='x'", flag])
    assert line in str(told.value)


@pytest.mark.parametrize(
    "flag",
    [
        "ModelSetup.optimizer=@scope/Adafactor",
        "ModelSetup.optimizer=@gin.singleton()",
        "Adafactor.learning_rate=@schedules.linear_decay()",
        "Router.capacity_factor=2",
        "SwitchLayer.group_size=None",
        "SwitchLayer.dispatcher=@EinsumDispatcher",
        "TransformerEncoderDecoder.switch_ffn=None",
        "local_text.train=['a.txt', 'b.txt']",
    ],
)
def test_what_fits_is_let_through(flag):
    config.precheck(RUN, ["MODEL_DIR='x'", flag])


def test_the_line_of_a_file_is_that_where_the_macro_is_set(project):
    source = "from switch_tf.rules import Count\n@gin.configurable\ndef run(steps: Count): ...\n"
    (project / "users.py").write_text(f"import gin\n{source}")
    (project / "a.gin").write_text("import users\nSTEPS = 0\nrun.steps = %STEPS\n")
    with pytest.raises(UserError, match="^a.gin:2: STEPS=0: give a whole number of at least 1$"):
        config.precheck(["a.gin"])

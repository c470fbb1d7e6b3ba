"""What gin files say does not hang on their order: the same in each, or refused."""

import itertools

import gin
import pytest

from switch_tf import config
from switch_tf.errors import UserError
from tests.test_config import error_of, write


def errors_of(files, bindings=()):
    """What the files are refused with in each order; they are told the same."""
    (told,) = {error_of(order, bindings) for order in itertools.permutations(files)}
    return told


def values_of(files, bindings=()):
    """What the files say in each order, which is the same."""
    first, *others = (config.precheck(order, bindings) for order in itertools.permutations(files))
    assert all(other == first for other in others)
    return first


def peaks(folder, one, other):
    """Two files that set one parameter, the first of them a macro EIGHT, too."""
    first = write(folder / "a.gin", f"EIGHT = 8\nschedule.peak = {one}\n")
    return [first, write(folder / "b.gin", f"schedule.peak = {other}\n")]


def test_files_that_set_a_macro_to_different_values_are_refused_with_both_places(project):
    write(project / "a.gin", "\nA = 1\n")
    write(project / "b.gin", "A = 2\n")
    assert errors_of(["a.gin", "b.gin"]) == (
        "a.gin:2: A=1, but b.gin:1 has 2, so the order of the --gin_file flags would decide: pass "
        "--gin.A=VALUE, or let one file include the other"
    )


def test_of_three_files_the_two_that_differ_are_named(project):
    for name, value in (("a.gin", 1), ("b.gin", 1), ("c.gin", 2)):
        write(project / name, f"A = {value}\n")
    assert errors_of(["a.gin", "b.gin", "c.gin"]).startswith("a.gin:1: A=1, but c.gin:1 has 2, ")


def test_a_file_is_its_includes_and_what_it_makes_of_them(project):
    write(project / "base.gin", "A = 1\n")
    write(project / "a.gin", "include 'base.gin'\nA = 2\n")
    write(project / "b.gin", "A = 2\n")
    assert values_of(["a.gin", "b.gin"]) == {"A": 2}
    write(project / "b.gin", "A = 1\n")
    assert errors_of(["a.gin", "b.gin"]).startswith("a.gin:2: A=2, but b.gin:1 has 1, ")


def test_a_file_that_another_one_includes_is_to_be_dropped(project):
    write(project / "sub/base.gin", "A = 1\n")
    write(project / "a.gin", "include 'sub/base.gin'\nA = 2\n")
    assert errors_of(["a.gin", str(project / "sub/base.gin")]) == (
        "a.gin:2: A=2, but sub/base.gin:1 has 1, so the order of the --gin_file flags would "
        f"decide: pass --gin.A=VALUE, or remove --gin_file={project}/sub/base.gin, which a.gin "
        "includes"
    )


def test_a_parameter_is_one_by_its_short_and_its_long_name(project):
    write(project / "a.gin", "schedule.peak = 1\n")
    write(project / "b.gin", "switch_tf.declared.schedule.peak = 2\n")
    assert errors_of(["a.gin", "b.gin"]) == (
        "a.gin:1: schedule.peak=1, but b.gin:1 has 2, so the order of the --gin_file flags would "
        "decide: pass --gin.schedule.peak=VALUE, or let one file include the other"
    )
    for flag in ("schedule.peak=3", "switch_tf.declared.schedule.peak=3"):
        assert values_of(["a.gin", "b.gin"], [flag]) == {"schedule.peak": 3}


def test_within_a_file_the_last_statement_holds_by_whichever_name(project):
    text = "schedule.peak = 1\nswitch_tf.declared.schedule.peak = 2\nschedule.peak = 3\n"
    write(project / "a.gin", text)
    assert config.precheck(["a.gin"]) == {"schedule.peak": 3}
    write(project / "a.gin", text + "declared.schedule.peak = 4\n")
    assert config.precheck(["a.gin"]) == {"schedule.peak": 4}


def test_a_scope_is_another_setting(project):
    write(project / "a.gin", "one/schedule.peak = 1\n")
    write(project / "b.gin", "schedule.peak = 2\n")
    values_of(["a.gin", "b.gin"])
    write(project / "b.gin", "one/schedule.peak = 2\n")
    assert errors_of(["a.gin", "b.gin"]).startswith("a.gin:1: one/schedule.peak=1, but b.gin:1 ")


@pytest.mark.parametrize(
    "one, other",
    [
        ("{'x': 1, 'y': [2]}", "{'y': [2], 'x': 1}"),
        ("%EIGHT", "8"),
        ("[%EIGHT]", "[8]"),
        ("@schedule()", "@switch_tf.declared.schedule()"),
        ("@scope/schedule", "@scope/declared.schedule"),
    ],
)
def test_the_same_in_another_form_is_the_same(project, one, other):
    values_of(peaks(project, one, other))


@pytest.mark.parametrize(
    "one, other",
    [
        ("1", "1.0"),
        ("1", "True"),
        ("(1,)", "[1]"),
        ("{'x': 1}", "{'x': 2}"),
        ("%EIGHT", "9"),
        ("%EIGHT", "%ANSWER"),
        ("@schedule", "@schedule()"),
        ("@one/schedule", "@other/schedule"),
        ("@layers.Router", "@other.Router"),
        ("None", "'None'"),
    ],
)
def test_what_makes_another_run_is_not_the_same(project, one, other):
    assert errors_of(peaks(project, one, other)).startswith(
        f"a.gin:2: schedule.peak={one}, but b.gin:1 has {other}, so"
    )


def test_macros_that_are_one_by_a_flag_are_the_same(project):
    assert values_of(peaks(project, "%EIGHT", "9"), ["EIGHT=9"])["schedule.peak"] == 9


def test_a_flag_settles_what_files_differ_in(project):
    write(project / "a.gin", "A = 1\nschedule.peak = %A\n")
    write(project / "b.gin", "A = 2\n")
    for flag in ("A=3", "A/macro.value=3", "A/gin.macro.value=3"):
        assert values_of(["a.gin", "b.gin"], [flag]) == {"A": 3, "schedule.peak": 3}


def test_a_macro_in_gins_own_form_is_the_macro(project):
    write(project / "a.gin", "A = 1\n")
    write(project / "b.gin", "A/macro.value = 2\n")
    assert errors_of(["a.gin", "b.gin"]).startswith("a.gin:1: A=1, but b.gin:1 has 2, ")


def test_a_macro_of_itself_is_no_endless_search(project):
    write(project / "a.gin", "A = %B\nB = %A\n")
    write(project / "b.gin", "A = 2\n")
    assert errors_of(["a.gin", "b.gin"]).startswith("a.gin:1: A=%B, but b.gin:1 has 2, ")


VALUES = ["1", "'x'", "None", "(1,)", "(1, 'y')", "[{'x': %B}]", "%B", "@function()", "@s/function"]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("name", ["A", "s/A", "order_function.a", "s/order_function.a"])
def test_a_value_settles_what_another_file_requires_for_gin_too(tmp_path, monkeypatch, name, value):
    monkeypatch.chdir(tmp_path)
    value = value.replace("function", "order_function")
    write(
        tmp_path / "order_module.py",
        "import gin\n@gin.configurable\ndef order_function(a=None, b=0): return a\n",
    )
    module = "MIXTURE_OR_TASK_MODULE = 'order_module'\nB = 5\n"
    write(tmp_path / "a.gin", f"{module}{name} = {value}\n")
    write(tmp_path / "b.gin", f"{module}{name} = %gin.REQUIRED\n")
    values_of(["a.gin", "b.gin"])
    texts = set()
    for order in (["a.gin", "b.gin"], ["b.gin", "a.gin"], ["a.gin"]):
        config.load(order)
        texts.add(gin.config_str())
        # A flag has the last word.
        config.load(order, [f"{name}='flag'"])
        assert f"{name} = 'flag'" in gin.config_str()
    gin.clear_config()
    assert len(texts) == 1 and "REQUIRED" not in texts.pop()


def test_what_every_file_requires_is_required(project):
    write(project / "a.gin", "A = %gin.REQUIRED\nschedule.peak = %A\n")
    write(project / "b.gin", "A = %gin.REQUIRED\n")
    assert error_of(["a.gin", "b.gin"]) == "b.gin:1: A is required: pass --gin.A=VALUE"


def test_in_one_file_a_value_before_what_requires_it_is_none(project):
    """As in runs/finetune.gin, whose INITIAL_CHECKPOINT_PATH an included file sets to None."""
    write(project / "a.gin", "A = None\nA = %gin.REQUIRED\n")
    assert error_of(["a.gin"]) == "a.gin:2: A is required: pass --gin.A=VALUE"


def test_files_that_differ_are_refused_by_load_too(project):
    write(project / "a.gin", "A = 1\n")
    write(project / "b.gin", "A = 2\n")
    with pytest.raises(UserError, match="^a.gin:1: A=1, but b.gin:1 has 2, "):
        config.load(["b.gin", "a.gin"])

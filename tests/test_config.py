import ast
import contextlib
import logging
import os
import subprocess
import sys
import textwrap
from typing import Any

import gin
import pytest

from switch_tf import config, configurables, gin_files, gin_syntax, rules
from switch_tf.errors import UserError


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path.name


def error_of(files, bindings=()):
    with pytest.raises(UserError) as caught:
        config.precheck(files, bindings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_precheck_returns_the_literal_macros_with_flags_over_files(project):
    write(project / "a.gin", "A = 1\nB = %A\nC = {'x': (%A, [2])}\nD = @schedule\n")
    assert config.precheck(["a.gin"], ["A=3"]) == {"A": 3, "B": 3, "C": {"x": (3, [2])}}


def test_an_included_file_is_found_in_the_gin_folder(project, monkeypatch):
    monkeypatch.setattr(gin_files, "GIN_FOLDER", project / "gin")
    write(project / "gin/models/m.gin", "A = 1")
    write(project / "run.gin", "include 'models/m.gin'\nB = %A")
    assert config.precheck(["run.gin"]) == {"A": 1, "B": 1}


def test_the_working_directory_comes_before_the_gin_folder(project, monkeypatch):
    monkeypatch.setattr(gin_files, "GIN_FOLDER", project / "gin")
    write(project / "gin/m.gin", "A = 1")
    write(project / "m.gin", "A = 2")
    assert config.precheck(["m.gin"]) == {"A": 2}


def test_a_missing_file_names_the_places_searched_and_the_nearest(project, monkeypatch):
    monkeypatch.setattr(gin_files, "GIN_FOLDER", project / "gin")
    write(project / "gin/models/tiny.gin", "A = 1")
    assert error_of(["models/tinny.gin"]) == (
        f"--gin_file: no file 'models/tinny.gin'; searched in {project} and {project / 'gin'}"
        "; nearest: models/tiny.gin"
    )
    write(project / "a.gin", "A = 1\ninclude 'b.gin'")
    assert error_of(["a.gin"]).startswith("a.gin:2: no file 'b.gin'; searched in")


def test_an_include_is_looked_for_beside_the_including_file_too(project):
    write(project / "sub/outer.gin", "include 'inner.gin'\nA = 1\n")
    write(project / "sub/inner.gin", "include 'deep/most.gin'\nB = 2\n")
    write(project / "sub/deep/most.gin", "C = 3\n")
    assert config.precheck(["sub/outer.gin"]) == {"A": 1, "B": 2, "C": 3}
    config.load(["sub/outer.gin"])
    assert [config.macro(name) for name in "ABC"] == [1, 2, 3]
    # The working directory comes first, and the folder of another file does not count.
    write(project / "inner.gin", "B = 5\n")
    config.load(["sub/outer.gin"])
    assert config.macro("B") == config.precheck(["sub/outer.gin"])["B"] == 5
    write(project / "sub/inner.gin", "include 'most.gin'\n")
    (project / "inner.gin").unlink()
    assert error_of(["sub/outer.gin"]).startswith(
        f"sub/inner.gin:1: no file 'most.gin'; searched in {project} and {project}/sub and "
    )


def test_files_that_include_each_other_by_other_paths_are_refused(project):
    write(project / "sub/a.gin", "include '../sub/b.gin'")
    write(project / "sub/b.gin", "include '../sub/a.gin'")
    assert "includes itself; remove this include" in error_of(["sub/a.gin"])


def test_a_mark_of_the_byte_order_is_no_part_of_a_file(project):
    (project / "a.gin").write_bytes(b"\xef\xbb\xbfinclude 'b.gin'\r\nA = 1\r\n")
    (project / "b.gin").write_bytes(b"\xef\xbb\xbfB = 2\n")
    assert config.precheck(["a.gin"]) == {"A": 1, "B": 2}
    config.load(["a.gin"])
    assert config.macro("A") == 1 and config.macro("B") == 2
    assert gin_files.read_text("\ufeffA = 1", "x").literals() == {"A": 1}


def test_a_file_that_is_not_utf_8_is_refused(project):
    (project / "a.gin").write_bytes("A = 'ä'".encode("utf-16"))
    assert error_of(["a.gin"]) == (
        "--gin_file: 'a.gin' is not UTF-8 (invalid start byte at byte 0): save it as UTF-8"
    )


@pytest.mark.parametrize("name", ["", ".", "a" * 5000, "a\0b", "\ud800"])
def test_a_name_that_no_file_has_is_not_found(project, name):
    assert error_of([name]).startswith(f"--gin_file: no file '{name}'; searched in ")


def test_a_file_in_the_home_folder_is_found(project, monkeypatch):
    monkeypatch.setenv("HOME", str(project / "home"))
    write(project / "home/a.gin", "A = 1")
    assert config.precheck(["~/a.gin"]) == {"A": 1}


def test_a_file_that_includes_itself_is_refused(project):
    write(project / "a.gin", "include 'b.gin'")
    write(project / "b.gin", "A = 1\ninclude 'a.gin'")
    assert error_of(["a.gin"]) == "b.gin:2: 'a.gin' includes itself; remove this include"


@pytest.mark.parametrize(
    "text, message",
    [
        ("A = 1\nB = = 2\n", "a.gin:2: syntax error: Unable to parse value, in: B = = 2"),
        ("A = 1\nB\n", "a.gin:2: syntax error: Couldn't parse statement, expected ':' or '='"),
        ("A = 1\nB = [1,\n", "a.gin:3: syntax error: EOF in multi-line statement; is a bracket"),
    ],
)
def test_a_syntax_error_names_file_and_line(project, text, message):
    write(project / "a.gin", text)
    assert error_of(["a.gin"]).startswith(message)


def test_a_string_without_quotes_in_a_flag_says_how_to_quote_it(project):
    assert error_of([], ["MODEL_DIR=/tmp/model"]) == (
        "--gin.MODEL_DIR: not a gin value: Unable to parse value; a string needs its own quotes: "
        "--gin.NAME=\"'text'\""
    )


@pytest.mark.parametrize(
    "flag, mend",
    [
        ("train.optimizer=AdamW", "a function or class an @: --gin.NAME=@AdamW"),
        (
            "LENGTHS={inputs: 40}",
            "strings in it need quotes, as in \"{'inputs': 512, 'targets': 114}\"",
        ),
    ],
)
def test_other_values_without_quotes_say_what_else_they_need(project, flag, mend):
    assert error_of([], [flag]).endswith(mend)


def test_an_unknown_configurable_names_the_nearest(project):
    write(project / "a.gin", "shcedule.peak = 1")
    assert error_of(["a.gin"]) == (
        "a.gin:1: no configurable 'shcedule'; nearest: schedule; to use your own, add 'import "
        "MODULE' to a gin file or set MIXTURE_OR_TASK_MODULE"
    )
    assert error_of([], ["schedule.peak=@scope/shcedule()"]).startswith(
        "--gin.schedule.peak: no configurable 'shcedule'; nearest: schedule"
    )
    write(project / "a.gin", "shcedule:\n  peak = 1\n")
    assert error_of(["a.gin"]).startswith("a.gin:1: no configurable 'shcedule'")


def test_what_the_model_gives_a_layer_anyway_is_refused():
    files = ["models/switch_tiny.gin", "runs/plan.gin"]
    for setting, instead in (
        ("SwitchFFN.d_ff=8", "TransformerEncoderDecoder.d_ff"),
        ("SwitchLayer.init_scale=1.0", "TransformerEncoderDecoder.init_scale"),
        ("Top2Router.init_scale=1.0", "TransformerEncoderDecoder.init_scale"),
        ("Router.num_experts=2", "SwitchFFN.num_experts or SwitchProjection.num_experts"),
    ):
        name, _, parameter = setting.partition("=")[0].partition(".")
        assert error_of(files, [setting]) == (
            f"--gin.{name}.{parameter}: the model sets the {parameter} of '{name}': set {instead} "
            "instead"
        )
    config.precheck(files, ["SwitchFFN.num_experts=4"])
    # A layer outside our model takes what gin says.
    config.precheck([], ["SwitchFFN.d_ff=8"])


def test_an_unknown_parameter_names_the_nearest_or_all(project):
    write(project / "a.gin", "schedule.peak = 1\nscope/schedule.warmup_step = 2")
    assert error_of(["a.gin"]) == (
        "a.gin:2: 'schedule' has no parameter 'warmup_step'; nearest: warmup_steps"
    )
    assert error_of([], ["schedule.x=1"]) == (
        "--gin.schedule.x: 'schedule' has no parameter 'x'; it has peak, warmup_steps"
    )


def test_names_match_by_their_last_parts_as_in_gin(project):
    write(project / "a.gin", "layers.Router.noise = 1\ndeclared.schedule.peak = 1\n")
    config.precheck(["a.gin"], ["other.Router.anything=1"])
    assert error_of([], ["Router.noise=1"]) == (
        "--gin.Router.noise: 'Router' is ambiguous; write one of layers.Router, other.Router"
    )


def test_a_macro_without_a_value_names_the_flag_that_gives_one(project):
    write(project / "a.gin", "BATCH = 8\nschedule.peak = [%ANSWER, %BATCH_SIZE]")
    assert error_of(["a.gin"]) == (
        "a.gin:2: %BATCH_SIZE has no value: pass --gin.BATCH_SIZE=VALUE; nearest: BATCH"
    )
    config.precheck(["a.gin"], ["BATCH_SIZE=8"])


def test_a_macro_without_a_value_names_files_of_the_project_that_set_it(project):
    write(project / "a.gin", "schedule.peak = %CAPACITY_FACTOR")
    assert error_of(["a.gin"]) == (
        "a.gin:1: %CAPACITY_FACTOR has no value: pass --gin.CAPACITY_FACTOR=VALUE; "
        "models/switch_tiny.gin, models/switch_base.gin and 3 more files set it"
    )


def test_names_tells_of_an_unknown_one_first(project):
    write(project / "a.gin", "shcedule.peak = %MISSING")
    with pytest.raises(UserError, match="^a.gin:1: no configurable 'shcedule'; nearest: schedule"):
        config.names(["a.gin"])


def test_a_required_value_that_is_not_given_is_named(project):
    write(project / "a.gin", "MODEL_DIR = %gin.REQUIRED\nschedule.peak = %gin.REQUIRED")
    assert error_of(["a.gin"], ["schedule.peak=1"]) == (
        "a.gin:1: MODEL_DIR is required: pass --gin.MODEL_DIR=VALUE"
    )
    assert error_of(["a.gin"], ["MODEL_DIR='m'"]) == (
        "a.gin:2: schedule.peak is required: pass --gin.schedule.peak=VALUE"
    )


def test_a_flag_for_a_macro_that_nothing_reads_is_refused(project):
    write(project / "a.gin", "TRAIN_STEPS = 5")
    assert error_of(["a.gin"], ["TRAIN_STEP=9"]) == (
        "--gin.TRAIN_STEP: nothing loaded reads the macro 'TRAIN_STEP'; nearest: TRAIN_STEPS"
    )
    assert error_of(["a.gin"], ["NUM_EXPERTS=4"]).startswith(
        "--gin.NUM_EXPERTS: nothing loaded reads the macro 'NUM_EXPERTS'; models/switch_tiny.gin, "
    )
    # Python reads it by config.macro.
    config.precheck(["a.gin"], ["SEED=1"])


def test_that_a_run_sets_a_macro_is_no_reason_to_take_a_flag_that_no_model_reads():
    files = ["models/t5_tiny.gin", "runs/plan.gin"]
    assert config.precheck(files)["EXPERT_DROPOUT_RATE"] is None
    assert error_of(files, ["EXPERT_DROPOUT_RATE=0.4"]).startswith(
        "--gin.EXPERT_DROPOUT_RATE: nothing loaded reads the macro 'EXPERT_DROPOUT_RATE'; "
        "models/switch_tiny.gin, models/"
    )


def test_a_module_that_is_not_there_is_named_without_importing_anything(project):
    write(project / "a.gin", "import nowhere.at_all")
    assert error_of(["a.gin"]) == (
        "a.gin:1: no module 'nowhere.at_all'; run where it can be imported, or set PYTHONPATH"
    )
    assert error_of([], ["MIXTURE_OR_TASK_MODULE='tasks.c4'"]) == (
        "--gin.MIXTURE_OR_TASK_MODULE: the module 'tasks.c4' is called 'switch_tf.tasks.c4': use "
        "that name"
    )
    assert error_of([], ["MIXTURE_OR_TASK_MODULE='tasks.not_there'"]).startswith(
        "--gin.MIXTURE_OR_TASK_MODULE: no module 'tasks.not_there'"
    )


def test_a_package_of_the_users_own_may_be_called_tasks(project, monkeypatch):
    write(project / "tasks/__init__.py", "")
    write(project / "tasks/c4.py", "")
    monkeypatch.syspath_prepend(project)
    config.precheck([], ["MIXTURE_OR_TASK_MODULE='tasks.c4'"])


def test_load_sets_what_the_users_own_module_declares(project, caplog):
    write(
        project / "users_module.py",
        """
        import gin

        @gin.configurable
        def users_function(a, b=2):
            return a, b
        """,
    )
    write(project / "sub/a.gin", "A = 1\nusers_function.a = %A\n")
    write(project / "run.gin", "include 'sub/a.gin'\nMIXTURE_OR_TASK_MODULE = 'users_module'\n")
    with caplog.at_level(logging.ERROR):
        config.load(["run.gin"], ["users_function.b=3"])
    assert not caplog.records
    assert sys.modules["users_module"].users_function() == (1, 3)
    assert config.macro("A") == 1
    assert "users_function.b = 3" in config.operative_config()
    assert error_of(["run.gin"], ["users_function.c=1"]).startswith(
        "--gin.users_function.c: 'users_function' has no parameter 'c'"
    )
    with pytest.raises(UserError) as caught:
        config.load(["run.gin"], ["users_funktion.c=1"])
    # Others that are like it may be registered in the same process.
    told, _, names = str(caught.value).partition("; nearest: ")
    assert told == "--gin.users_funktion.c=1: No configurable matching 'users_funktion'"
    assert names.split(", ")[0] == "users_function"


def test_a_name_that_only_gin_looks_up_is_one_line(project):
    write(project / "a.gin", "from __gin__ import dynamic_registration\nnobody.peak = 1\n")
    with pytest.raises(UserError, match="^a.gin:2: .nobody. was not provided by an import stat"):
        config.load(["a.gin"])


def test_a_scoped_binding_gets_the_macro_that_a_flag_set(project):
    """Of a macro inside a scope gin-config#87 says that it is lost."""
    write(
        project / "scoped_module.py",
        """
        import gin

        @gin.configurable
        def scoped_function(a=0, b=()):
            return a, b

        @gin.configurable
        def scoped_caller(value=0):
            return value
        """,
    )
    write(
        project / "run.gin",
        """
        MIXTURE_OR_TASK_MODULE = 'scoped_module'
        A = 1
        one/A = 2
        one/scoped_function.a = %A
        one/scoped_function.b = [%A, %one/A]
        scoped_caller.value = @one/scoped_function()
        outer/scoped_caller.value = @one/scoped_function()
        """,
    )
    config.load(["run.gin"], ["A=3", "one/A=4"])
    module = sys.modules["scoped_module"]
    with gin.config_scope("one"):
        assert module.scoped_function() == (3, [3, 4])
    assert module.scoped_caller() == (3, [3, 4])
    with gin.config_scope("outer"):
        assert module.scoped_caller() == (3, [3, 4])
    # Also of what was loaded inside a scope, and as the operative config saves it.
    with gin.config_scope("one"):
        config.load(["run.gin"], ["A=3", "one/A=4"])
        assert module.scoped_caller() == (3, [3, 4])
        assert config.macro("A") == 3
        write(project / "saved.gin", config.operative_config())
    config.load(["saved.gin"])
    with gin.config_scope("one"):
        assert module.scoped_function() == (3, [3, 4])


def test_a_folder_named_like_one_of_ours_does_not_hide_it(tmp_path, monkeypatch):
    # Python takes the project for a package, and gin would look for its includes in there.
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    config.load(["models/t5_tiny.gin", "runs/pretrain.gin"], ["MODEL_DIR='x'"])
    assert config.macro("TRAIN_STEPS") == 1000
    gin.clear_config()


def test_the_operative_config_alone_configures_the_same_run(project):
    write(project / "another_module.py", "import gin\n@gin.configurable\ndef run_it(a): return a\n")
    write(project / "run.gin", "A = {'x': 1}\nrun_it.a = %A\n")
    config.load(["run.gin"], ["MIXTURE_OR_TASK_MODULE='another_module'"])
    assert sys.modules["another_module"].run_it() == {"x": 1}
    saved = config.operative_config()
    write(project / "saved.gin", saved)
    config.load(["saved.gin"])
    assert sys.modules["another_module"].run_it() == {"x": 1}
    assert config.operative_config() == saved


def test_loading_again_forgets_what_was_loaded_before(project):
    write(project / "a.gin", "A = 1\n")
    write(project / "b.gin", "B = 2\n")
    config.load(["a.gin"])
    config.load(["b.gin"])
    assert config.macro("B") == 2
    assert config.macro("A", None) is None
    with pytest.raises(UserError, match="^A is not set: pass --gin.A=VALUE$"):
        config.macro("A")


def test_a_macro_that_python_reads_is_checked_and_may_be_its_default(project):
    config.load([], ["SEED=None"])
    assert config.macro("SEED", None, annotation=rules.Count) is None
    with pytest.raises(UserError, match="^SEED=None: give a whole number of at least 1"):
        config.macro("SEED", 3, annotation=rules.Count)


def test_the_operative_config_has_the_macros_that_python_read(project):
    write(project / "a.gin", "A = 1\nB = 2\n")
    config.load(["a.gin"])
    config.macro("A")
    assert "A = 1" in config.operative_config()
    assert "B = 2" not in config.operative_config()


def test_precheck_needs_no_tensorflow(tmp_path):
    code = (
        "import sys; from switch_tf import config; config.precheck([], ['gin.macro.value=1']);"
        "sys.exit('tensorflow' in sys.modules or 'seqio' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)


def unread_macros(folder) -> set[str]:
    """Macros defined in the gin files of `folder` that neither gin nor Python reads."""
    defined, read = {}, set(configurables.project_source().macros)
    for path in sorted(folder.rglob("*.gin")):
        for statement, where in gin_syntax.statements(path.read_text(), str(path), is_file=True):
            if not hasattr(statement, "value"):
                continue
            if not statement.arg_name:
                defined[statement.selector] = where
            found = gin_files.parts(statement.value)
            read |= {part.name for part in found if isinstance(part, gin_files.Macro)}
    return {f"{where}: {name}" for name, where in defined.items() if name not in read}


def test_every_macro_of_the_gin_folder_is_read_somewhere():
    assert unread_macros(gin_files.GIN_FOLDER) == set()


def test_a_macro_that_nothing_reads_is_found(tmp_path):
    path = tmp_path / "a.gin"
    path.write_text("READ = 1\nLEFT = 2\nx.y = [%READ]\n")
    assert unread_macros(tmp_path) == {f"{path}:2: LEFT"}


def test_what_a_tasks_preprocessors_put_into_the_operative_config_is_known(tmp_path):
    """As a run on span corruption saves it."""
    path = tmp_path / "config.gin"
    path.write_text("random_spans_helper.verbose = False\nrandom_spans_helper.speed = 1\n")
    assert "config.gin:2: 'random_spans_helper' has no parameter 'speed'" in error_of([str(path)])
    path.write_text("random_spans_helper.verbose = False\n")
    config.load([str(path)])
    gin.clear_config()


def test_a_layer_takes_the_parameters_of_the_layer_that_it_extends():
    source = configurables.project_source()
    found = {c.name: c.parameters for c in source.configurables}
    assert {"temperature", "capacity_factor"} <= found["SwitchRouter"].keys()
    assert {"second_policy", "capacity_factor"} <= found["Top2Router"].keys()
    assert "temperature" not in found["Router"]
    assert "name" not in found["SwitchRouter"]
    # Without a constructor of its own.
    assert found["WorstCaseRouter"] == found["Router"]


def test_what_only_code_passes_is_no_parameter_of_gins():
    for parameter in ("memory", "nothing"):
        error = error_of([], [f"plan.{parameter}=True"])
        assert f"'plan' has no parameter '{parameter}'" in error


def test_no_value_of_gins_is_replaced_by_what_code_passes():
    """A parameter that the project itself passes is marked, so that setting it is refused."""
    source, found = configurables.project_source(), []
    classes = {c.declaration.name: c for c in source.configurables if is_class_of_ours(c)}
    for module, path in configurables.project_modules().items():
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            known = isinstance(call, ast.Call) and classes.get(ast.unparse(call.func))
            # Pages and the comparison of dispatchers take no gin.
            if known and not module.startswith(("switch_tf.pages.", "switch_tf.benches.disp")):
                names = [name for name, _, _ in configurables.declared(known.declaration)]
                passed = names[: len(call.args)] + [keyword.arg for keyword in call.keywords]
                kinds = {name: known.parameters.get(name, Any) for name in passed}
                found += [
                    (module, known.name, name)
                    for name, kind in kinds.items()
                    if kind is not Any and not rules.mark(kind, rules.SetBy)
                ]
    assert found == []


def is_class_of_ours(configurable):
    return isinstance(configurable.declaration, ast.ClassDef) and configurable.parameters


def test_a_module_with_a_nul_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "with_nul.py").write_bytes(b"a = 1\0\n")
    told = "^--module: cannot import 'with_nul': source code string cannot contain null bytes$"
    with pytest.raises(UserError, match=told):
        config.import_module("with_nul", "--module")


@pytest.mark.parametrize("fails", [False, True])
def test_a_configuration_in_a_context_is_not_left_behind(fails):
    ends = pytest.raises(ZeroDivisionError) if fails else contextlib.nullcontext()
    with ends, config.loaded([], ["DEVICE_TYPE='GPU'"]):
        assert config.macro("DEVICE_TYPE") == "GPU"
        assert not fails or 1 / 0
    assert config.macro("DEVICE_TYPE", "none") == "none"

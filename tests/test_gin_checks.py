"""Every parameter that gin sets is held against its annotation, before TensorFlow starts."""

from typing import Any

import pytest

from switch_tf import config, configurables, gin_files, rules
from switch_tf.errors import UserError

# A value of each kind, as written in gin, beside itself; numbers also out of every range.
VALUES = {
    "None": None,
    "'text'": "text",
    "''": "",
    "'\\x00'": "\0",
    "b'text'": b"text",
    "True": True,
    "'False'": "False",
    "-1": -1,
    "-0.5": -0.5,
    "0": 0,
    "0.5": 0.5,
    "1": 1,
    "1.0": 1.0,
    "1.5": 1.5,
    "'1'": "1",
    "10000000000000000000000": 10**22,
    "1e999": float("inf"),
    "1j": 1j,
    "[]": [],
    "[None]": [None],
    "['(']": ["("],
    "{}": {},
    "{'inputs': 1}": {"inputs": 1},
}


OF_T5 = {
    found.name
    for found in configurables.project_source().configurables
    if (found.module or "").startswith("t5.")
}


def parameters():
    for found in configurables.project_source().configurables:
        for parameter, annotation in (found.parameters or {}).items():
            yield pytest.param(found, parameter, annotation, id=f"{found.selector}.{parameter}")


def told(*bindings):
    """The line that refuses flags; None if they are accepted."""
    try:
        config.precheck([], bindings)
    except UserError as error:
        assert "\n" not in str(error)
        return str(error)
    return None


@pytest.mark.parametrize("found, parameter, annotation", parameters())
def test_each_parameter_takes_a_value_of_no_other_kind(found, parameter, annotation):
    name = f"{found.selector}.{parameter}"
    of_model = f"--gin.{name}: the model sets the {parameter} of "
    accepted = []
    for text, value in VALUES.items():
        line = told(f"{name}={text}")
        if line is None:
            accepted.append(value)
        else:
            assert line.startswith((f"--gin.{name}={value!r}: give ", of_model))
    if annotation is Any:
        assert found.selector.startswith("gin.") or parameter == "output_features"
        return
    if rules.mark(annotation, rules.SetBy) and rules.fits(object(), annotation):
        # What only code gives.
        return
    # Values of one kind at most: a whole number, a number, a text, a name, ...
    kinds = {type(value) for value in accepted if value is not None}
    one = ({bool}, {str}, {int}, {float}, {int, float}, {list}, {dict})
    assert kinds in (set(), *one, {str, list}), accepted
    if "" in accepted:
        # No axis is split; commands read the mesh's shape themselves, before the start, too.
        assert parameter in ("layout_rules", "mesh_shape")


def named_by_gin():
    """The references to all that is configurable, as short as gin takes them."""
    short = {"constant": "schedules.constant"}
    names = {
        found.name for found in configurables.project_source().configurables if found.declaration
    }
    return [f"@{short.get(name, name)}{end}" for name in sorted(names) for end in ("", "()")]


def _called(*names):
    return {f"@{name}" for name in names}


ROUTERS = _called(
    *("Router", "SwitchRouter", "SwitchMaxRouter", "ExpertChoiceRouter", "ExpertSelectionRouter"),
    *("UniformRouter", "ZipfRouter", "WorstCaseRouter", "TopKRouter", "Top2Router"),
    "NoTokenLeftBehindRouter",
)
LAYERS = ROUTERS | _called("SwitchLayer", "SwitchFFN", "SwitchProjection", "SwitchAttention")
# Which references a parameter takes; T5's own functions, of which no return type is known, beside.
TAKEN = {
    "data": _called("TaskData"),
    "setup": _called("ModelSetup"),
    "evaluation": _called("Evaluation"),
    "distillation": _called("Distillation"),
    "model": _called("TransformerEncoderDecoder"),
    "optimizer": _called("Adafactor", "AdamW"),
    "learning_rate": _called("schedules.constant()", "rsqrt()", "linear_decay()"),
    "router": ROUTERS,
    "dispatcher": _called("GatherDispatcher", "EinsumDispatcher"),
    "projection": _called("SwitchProjection"),
    "switch_ffn": LAYERS | _called("TransformerEncoderDecoder"),
    "switch_attention": _called("SwitchAttention"),
}


@pytest.mark.parametrize("found, parameter, annotation", parameters())
def test_no_parameter_takes_references_in_lists_and_dicts_in_place_of_values(
    found, parameter, annotation
):
    if not found.selector.startswith("switch_tf.") or annotation is Any:
        return
    if rules.mark(annotation, rules.SetBy) or rules.mark(annotation, rules.Inferred):
        return
    name = f"{found.selector}.{parameter}"
    accepted = set()
    for text in (
        *("{'a': @Adafactor}", "{'inputs': @rsqrt(), 'targets': 8}", "{@rsqrt: 1}"),
        *("{'a': [{'b': @Adafactor()}]}", "[@Adafactor]", "(1, {'a': @rsqrt})"),
    ):
        line = told(f"{name}={text}")
        if line is None:
            accepted.add(text)
        else:
            assert line.startswith(f"--gin.{name}={text}: give ")
    assert not accepted


@pytest.mark.parametrize("found, parameter, annotation", parameters())
def test_each_parameter_takes_references_of_no_other_kind(found, parameter, annotation):
    if not found.selector.startswith("switch_tf.") or rules.mark(annotation, rules.SetBy):
        return
    name, every = f"{found.selector}.{parameter}", named_by_gin()
    # Of most parameters, a few say the same as all.
    tried = every if parameter in TAKEN else ["@Adafactor", "@Adafactor()", "@evaluate()", "@rsqrt"]
    accepted = set()
    for text in tried:
        line = told(f"{name}={text}")
        if line is None or f"--gin.{name}: {text} needs " in line:
            accepted.add(text)
        else:
            assert line.startswith(f"--gin.{name}={text}: give ")
    ours = {text for text in accepted if text.strip("@()") not in OF_T5}
    assert ours == TAKEN.get(parameter, set())


@pytest.mark.parametrize(
    "parameter, fitting, others",
    [
        ("switch", ["True", "None"], ["1", "'False'", "0.5", "[]"]),
        ("whole", ["3", "1.5", "None"], ["True", "'3'", "[3]", "1e999"]),
        ("number", ["3", "-1.5"], ["False", "'0.5'", "{}"]),
        ("text", ["''", "'a'", "None"], ["3", "True", "['a']"]),
        ("negative", ["1", "-1"], ["'-1'"]),
    ],
)
def test_without_an_annotation_the_default_says_what_a_parameter_takes(
    unannotated, parameter, fitting, others
):
    module, name = "MIXTURE_OR_TASK_MODULE='unannotated'", f"users.{parameter}"
    for value in [*fitting, "@users_schedule", "@users_schedule()", "@schedules.rsqrt()"]:
        assert told(module, f"{name}={value}", "schedules.rsqrt.warmup_steps=5") is None
    for value in others:
        line = told(module, f"{name}={value}")
        assert line.startswith(f"--gin.{name}=")
        assert "as the default is, or annotate the parameter" in line


@pytest.mark.parametrize("parameter", ["nothing", "none", "sizes", "names", "computed", "explicit"])
def test_where_the_default_does_not_say_it_everything_is_taken(unannotated, parameter):
    for value in VALUES:
        line = told("MIXTURE_OR_TASK_MODULE='unannotated'", f"users.{parameter}={value}")
        assert line is None


@pytest.fixture
def unannotated(tmp_path, monkeypatch):
    (tmp_path / "unannotated.py").write_text(USERS)
    monkeypatch.chdir(tmp_path)


USERS = """
import gin
from typing import Any

@gin.configurable
def users(nothing, switch=False, whole=3, number=0.5, text="", negative=-1, none=None, sizes=(),
          names={}, computed=2 * 3, explicit: Any = 3):
    pass

@gin.configurable
def users_schedule(step):
    return 0.1
"""


def test_macros_that_python_reads_are_walked_too():
    for name, annotation in configurables.project_source().macros.items():
        refused = [text for text in VALUES if told(f"{name}={text}")]
        assert len(refused) >= len(VALUES) - 6, (name, annotation)


@pytest.mark.parametrize(
    "binding, line",
    [
        (
            "MetricsWriter.others=[@TaskData]",
            "--gin.MetricsWriter.others=[@TaskData]: give a list, each a function or a class that "
            "makes `ScalarWriter`, written @NAME",
        ),
        ("TaskData.batch_size=[@TaskData]", "--gin.TaskData.batch_size=[@TaskData]: give a whole "),
        ("BAD_DATA=%BAD_DATA", "--gin.BAD_DATA: %BAD_DATA refers to itself: give it a value"),
        ("random_spans_noise_mask.random_roll='False'", "random_roll='False': give True or False"),
        ("select_random_chunk.max_lenght=5", "'select_random_chunk' has no parameter 'max_lenght'"),
        (
            "drop_noise_tokens.tokens=[1]",
            "'drop_noise_tokens' has no parameter 'tokens'; it has no",
        ),
        ("select_random_chunk.max_length='a'", "max_length='a': give a whole number of at least 1"),
        ("select_random_chunk.additional_feature_keys='a'", "give a list, each a string in quotes"),
        ("split_tokens.max_tokens_per_segment=0", "=0: give a whole number of at least 1"),
        ("reduce_concat_tokens.batch_size=1.5", "=1.5: give a whole number of at least 1"),
        ("denoise.noise_mask_fn=3", "noise_mask_fn=3: give a function or a class, written @NAME"),
        ("noise_token_to_random_token_or_sentinel.random_prob=2", "=2: give a number from 0 to 1"),
        ("Adafactor.learning_rate=@Adafactor", "learning_rate=@Adafactor: give a schedule: @sche"),
        ("SwitchFFN.router=@Adafactor", "router=@Adafactor: give a function or a class that makes"),
        ("Evaluation.split=''", "--gin.Evaluation.split='': give a name in quotes"),
        ("denoise.noise_density=15", "noise_density=15: give a share of the tokens, above 0 and "),
        (
            "Router.dtype='float16'",
            "Router.dtype='float16': give 'float32', 'bfloat16' or 'float64'",
        ),
        ("CACHE_DIR='a[1]'", "CACHE_DIR='a[1]': give a path in quotes without *, ? and [, which "),
        ("MIXTURE_OR_TASK_MODULE=''", "--gin.MIXTURE_OR_TASK_MODULE='': give a name in quotes"),
        ("MIXTURE_OR_TASK_MODULE=5", "--gin.MIXTURE_OR_TASK_MODULE=5: give a name in quotes"),
        ("MIXTURE_OR_TASK_MODULE='a b'", "--gin.MIXTURE_OR_TASK_MODULE: no module 'a b'; run "),
        ("MIXTURE_OR_TASK_MODULE='__main__.x'", "no module '__main__.x'; run where it can be "),
    ],
)
def test_what_is_not_a_single_literal_is_checked_too(binding, line):
    assert line in told(binding)


def test_a_list_with_what_fits_is_let_through():
    assert told("MetricsWriter.others=[@gin.singleton]") is None


def test_macros_within_each_other_are_followed():
    line = told("Evaluation.batches=%A", "A=[%B]", "B=%A")
    assert line == "--gin.A: %A refers to itself: give it a value"


def test_a_macro_in_a_list_of_references_is_followed(tmp_path):
    file = tmp_path / "a.gin"
    file.write_text("KIND = @TaskData\nMetricsWriter.others = [%KIND]\n")
    place = gin_files.display(file)
    with pytest.raises(UserError, match=f"^{place}:2: MetricsWriter.others=.*: give a list, each"):
        config.precheck([str(file)])

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
    for text in ("@Adafactor", "@Adafactor()", "@schedules.constant()", "@TaskData"):
        line = told(f"{name}={text}", "Adafactor.learning_rate=@schedules.constant()")
        if line is None:
            accepted.append(text)
        else:
            assert line.startswith((f"--gin.{name}={text}: give ", of_model))
    if annotation is Any:
        assert found.selector.startswith(("gin.", "t5."))
    elif not rules.fits(object(), annotation):
        # Values of one kind at most: a whole number, a number, a text, a name, ...
        kinds = {type(value) for value in accepted if value is not None}
        assert kinds in (set(), {bool}, {str}, {int}, {float}, {int, float}, {list}, {str, list}), (
            accepted
        )


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
        ("drop_noise_tokens.tokens=[1]", "'drop_noise_tokens' has no parameter 'tokens'; it has "),
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

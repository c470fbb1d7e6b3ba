"""Gin text is read whole or refused in one line; what gin's parser drops is not dropped."""

import pytest

from switch_tf import gin_files
from switch_tf.errors import UserError


def value_of(text):
    return gin_files.read([], [f"A={text}"]).macros["A"].value


@pytest.mark.parametrize(
    "text, value",
    [
        ("-3", -3),
        ("1_000", 1000),
        ("'a' 'b'", "ab"),
        ("{'a': {'a': 1}, 'b': {'a': 2}}", {"a": {"a": 1}, "b": {"a": 2}}),
        ("(1)", 1),
        ("(1,)", (1,)),
        ("[@x/f(), %y]", [gin_files.Reference("x/f", True), gin_files.Macro("y")]),
    ],
)
def test_a_value_is_what_python_makes_of_it(text, value):
    assert value_of(text) == value


@pytest.mark.parametrize(
    "text, why",
    [
        ("-%B", "Unable to parse value"),
        ("-@f", "Unable to parse value"),
        ("--1", "Unable to parse value"),
        ("{'a': 1, 'b': 2, 'a': 3}", "The dict has the key 'a' twice"),
        ("[{1: {'a': 1, 'a': 1}}]", "The dict has the key 'a' twice"),
        ("{['a']: 1}", "A key of a dict cannot be a list or a dict"),
        ("0x" + "f" * 5000, "The number is too long"),
        ("1 2", "Expected newline"),
    ],
)
def test_what_cannot_be_read_whole_is_refused(text, why):
    with pytest.raises(UserError, match=f"^--gin.A: not a gin value: {why}; a string needs its"):
        value_of(text)


def test_too_many_brackets_are_one_line():
    with pytest.raises(UserError, match="^--gin.A: syntax error: too many brackets within each "):
        value_of("[" * 5000 + "]" * 5000)


@pytest.mark.parametrize("binding", ["A=1\nB=2", "import os #=", "f:\n  A=1", "# A=1"])
def test_a_flag_is_one_setting(binding):
    with pytest.raises(UserError, match="(?s)^--gin.*: not (one setting: write|a gin value)"):
        gin_files.read([], [binding])

"""A few random settings of each kind; `python -m tests.fuzz_settings` tries many."""

import pytest

from tests import fuzz_settings


@pytest.fixture(autouse=True)
def nothing_starts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with fuzz_settings.without_tensorflow():
        yield


@pytest.mark.parametrize("function", fuzz_settings.PROPERTIES, ids=lambda f: f.__name__)
def test_a_random_setting_is_accepted_as_given_or_refused_in_one_line(function):
    fuzz_settings.trial(function, max_examples=100, derandomize=True)()


@pytest.mark.parametrize(
    "name, text", [("fuzzed.switch", "'False'"), ("fuzzed.whole", "-1"), ("fuzzed.wole", "1")]
)
def test_what_is_refused_is_no_traceback(name, text):
    how, line = fuzz_settings.run("fuzzed", fuzz_settings.MODULE, f"--gin.{name}={text}")
    assert how == "refused" and f"--gin.{name}" in line


def test_what_arrives_is_what_was_given():
    fuzz_settings.value_arrives("fuzzed.counts", "[1, 2]")
    assert fuzz_settings.fuzzed_command.arrived["counts"] == [1, 2]

import typing
from typing import Any, Literal, Optional

import pytest

from switch_tf import annotations, configurables, rules

SOURCE = """
from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from typing import Annotated, Literal

import gin
import tensorflow as tf
from pathlib import Path

from switch_tf import rules
from switch_tf.optimizers import schedules
from switch_tf.optimizers.schedules import Schedule
from switch_tf.rules import Axis, Count

KINDS = ("a", "b")
Width = Annotated[Count, Axis("d_ff")]
Itself = Itself

@gin.configurable
@dataclasses.dataclass
class Data:
    rows: Count
    split: str = "train"
    cached: bool | None = None

@gin.configurable
def run(
    data: Data,
    kind: Literal[KINDS],
    width: Width,
    rate: rules.Rate,
    schedule: Schedule,
    by_module: schedules.Schedule,
    text: "Count",
    other: typing.Optional[int],
    folder: Path,
    tensor: tf.Tensor,
    broken: 1 / 0,
    itself: Itself,
    none: Sequence[int] = None,
    unsaid=3,
    *,
    named: float = 1.0,
) -> Data: ...
"""


@pytest.fixture(scope="module")
def declared():
    source = configurables.read_module(SOURCE, "declared")
    return {found.name: found for found in source.configurables}


def test_annotations_are_what_they_would_be_at_run_time(declared):
    found = declared["run"].parameters
    assert found["kind"] == Literal["a", "b"]
    assert found["rate"] == rules.Rate
    assert found["text"] == rules.Count
    assert found["other"] == typing.Optional[int]  # noqa: UP045
    assert found["named"] is float
    assert found["broken"] is Any
    assert rules.mark(found["width"], rules.Axis).name == "d_ff"
    assert rules.fits(None, found["none"]) and rules.fits([1], found["none"])


def test_a_dataclasss_fields_are_its_parameters(declared):
    fields = declared["Data"].parameters
    assert list(fields) == ["rows", "split", "cached"]
    assert fields["rows"] == rules.Count
    assert rules.fits(None, fields["cached"]) and not rules.fits("no", fields["cached"])


def test_what_is_made_is_what_is_annotated(declared):
    assert declared["run"].makes is declared["Data"].makes is declared["run"].parameters["data"]
    made = configurables.project_source().configurables
    (rsqrt,) = (found for found in made if found.name == "rsqrt")
    assert declared["run"].parameters["schedule"] == rsqrt.makes
    assert declared["run"].parameters["by_module"] == rsqrt.makes


@pytest.mark.parametrize("name", ["folder", "tensor", "itself", "data"])
def test_a_class_that_is_not_read_takes_anything(declared, name):
    annotation = declared["run"].parameters[name]
    assert isinstance(annotation, annotations.StandIn)
    assert rules.fits("text", annotation)


def macros(text):
    return configurables.read_module(text, "some.module").macros


def test_a_macro_is_read_by_a_call_of_config_macro_however_it_is_imported():
    assert macros("from switch_tf import config\nconfig.macro('A', 3)\n") == {"A": Any}
    assert macros("from switch_tf import config as c\ndef f(): return c.macro('A')\n").keys() == {
        "A"
    }
    assert macros("import switch_tf.config\nswitch_tf.config.macro('A')\n") == {"A": Any}
    assert macros("from switch_tf.config import macro as m\nm('A')\n") == {"A": Any}


def test_the_annotation_of_a_macro_is_read_like_that_of_a_parameter():
    source = "from switch_tf import config, rules\nconfig.macro('A', None, annotation=rules.Count)"
    assert macros(source) == {"A": Optional[rules.Count]}  # noqa: UP045


def test_no_name_of_a_parameter_reads_a_macro():
    parameters = "def f(macros, macro, config):\n"
    assert macros(f"{parameters}  macros['A'], macros.get('B'), macro('C')") == {}
    assert macros(f"{parameters}  config.macro('D')") == {}

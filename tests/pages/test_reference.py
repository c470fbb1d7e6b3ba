import ast
import re
import subprocess
import sys

from switch_tf import configurables, gin_files
from switch_tf.pages import reference

PAGE = "\n".join(reference.lines())
SECTIONS = dict(re.findall(r"^### `([\w.]+)`\n(.*?)(?=^##|\Z)", PAGE, re.M | re.S))


def cells(text):
    """The first column of a table, without its heading."""
    return re.findall(r"^\| `(\w+)` \|", text, re.M)


def row(name, text):
    (found,) = re.findall(rf"^\| `{name}` \| (.*) \|$", text, re.M)
    return re.split(r" (?<!\\)\| ", found)


def test_every_macro_of_files_and_program_has_a_row():
    folder = gin_files.GIN_FOLDER
    rooms = ("runs", "layouts", "models")
    texts = [path.read_text() for room in rooms for path in (folder / room).glob("*.gin")]
    read = set(re.findall(r"%([A-Z_]+)\b", "\n".join(texts)))
    read |= configurables.project_source().macros.keys()
    assert cells(PAGE.partition("\n## benches")[0]) == sorted(read)


def test_a_macro_has_what_it_sets_and_its_value_in_each_file():
    sets, value, _ = row("PACK", PAGE)
    assert sets == "`TaskData.pack`"
    assert value == (
        "`True` in runs/distill.gin, runs/paper_finetune.gin and 2 more; `False` in "
        "runs/finetune.gin"
    )
    assert row("CHECKPOINT_PATH", PAGE)[1] == "required in runs/eval.gin"
    assert row("DATA_DIR", PAGE)[:2] == ["the program", ""]
    assert row("SEED", PAGE)[0] == "`train.seed`, `TaskData.seed`"


def test_every_parameter_that_gin_can_set_has_a_row_in_its_section():
    for configurable in configurables.project_source().configurables:
        if configurable.module in configurables.project_modules():
            rows = []
            for section in (configurable.name, *configurable.bases):
                rows += cells(SECTIONS.get(section, SECTIONS.get(f"schedules.{section}", "")))
            of_python = {"model", "optimizer", "mesh"} if configurable.name == "TrainStep" else ()
            assert {*configurable.parameters} - {*rows, *of_python} <= of_router(configurable)


def of_router(configurable):
    """What a router gets from the base of its base."""
    known = {c.name: c for c in configurables.project_source().configurables}
    above = (b for base in configurable.bases if base in known for b in known[base].bases)
    return {name for base in above if base in known for name in known[base].parameters}


def test_a_parameter_has_its_values_its_default_and_a_sentence():
    assert row("noise_density", PAGE) == [
        "a share of the tokens, above 0 and below 1",
        "`0.15`",
        "Share of the tokens that are masked.",
    ]
    assert row("warmup_steps", SECTIONS["linear_decay"])[1] == "required"
    assert row("dtype", SECTIONS["Router"])[0] == "'float32', 'bfloat16' or 'float64'"
    assert row("num_experts", SECTIONS["SwitchFFN"])[1] == "required"
    assert row("num_experts", SECTIONS["SwitchRouter"])[1] == (
        "from `SwitchFFN.num_experts` or `SwitchProjection.num_experts`"
    )
    assert "takes the parameters of `Router`" in SECTIONS["SwitchRouter"]
    assert "|  |" not in PAGE.partition("\n## benches")[2]


def test_descriptions_are_those_of_args_before_attributes():
    source = '''
class A:
    """It.

    Attributes:
      a: see below.
      b: kept,
        over lines. More.

    Args:
      a: said
        here.
      c, d: two.

    Raises:
      UserError: never.
    """
'''
    found = reference.descriptions(ast.parse(source).body[0])
    assert found == {"a": "said here.", "b": "kept, over lines. More.", "c": "two.", "d": "two."}


def test_it_needs_no_tensorflow():
    code = (
        "import sys; from switch_tf.pages.__main__ import main; status = main(['reference', "
        "'--check']); sys.exit(status or 'tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

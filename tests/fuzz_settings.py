"""Random names and values of gin and of flags, as a command line or a gin file has them.

Each is accepted by the command's check, and then arrives as it was given, or refused in one line
with status 2: no traceback, and no silence. `tests/test_fuzz_settings.py` tries a few hundred;

    python -m tests.fuzz_settings --minutes=60

tries others until the time is up, and stops at the first that fails. TensorFlow is not started.
"""

import argparse
import ast
import collections
import contextlib
import io
import os
import random
import sys
import tempfile
import time
import types
from typing import Any

import gin
import hypothesis
from hypothesis import strategies as st

from switch_tf import config, configurables, rules, runtime
from switch_tf.commands import launch
from switch_tf.commands import main as main_module
from switch_tf.commands.flags import Parser, add_gin_flags, split_gin_args
from switch_tf.errors import UserError
from tests.fuzzed import fuzzed

FILES = {
    "train": ["models/switch_tiny.gin", "layouts/expert_data.gin", "runs/pretrain.gin"],
    "eval": ["models/switch_tiny.gin", "layouts/expert_data.gin", "runs/eval.gin"],
    "plan": ["models/t5_tiny.gin", "layouts/model.gin", "runs/plan.gin"],
}
MODULE = "--gin.MIXTURE_OR_TASK_MODULE='tests.fuzzed'"
_ERROR, _PREFIX = 2, "switch-tf: error: "
# What these files require.
GIVEN = {
    "train": ["--gin.MODEL_DIR='model_dir'"],
    "eval": [
        "--gin.CHECKPOINT_PATH='run'",
        "--gin.MIXTURE_OR_TASK_NAME='pydocs_rte'",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 64, 'targets': 32}",
        "--gin.BATCH_SIZE=64",
    ],
    "plan": [],
}
_NOT_READ = object()
# Of each property, before its next turn.
_EACH = 500


class Started(BaseException):
    """Raised in place of TensorFlow's start: the command line is accepted."""


def fuzzed_command(argv) -> None:
    """A command like the project's, which keeps what arrives in place of training."""
    bindings, rest = split_gin_args(argv)
    parser = Parser(prog="switch-tf fuzzed")
    parser.add_argument("--count", type=int, default=1)
    add_gin_flags(parser)
    args = parser.parse_args(rest)
    config.precheck(args.gin_file, bindings)
    config.load(args.gin_file, bindings)
    fuzzed_command.arrived = fuzzed() | {"--count": args.count}


# What occurs in names, values and files; gin's and the shell's own characters above all.
SPECIAL = "[]{}()'\"\\/.,:;=@%#$!?*~-+_ \t\n\r\0"
SPECIAL += "\ufeff\u00e9\u00b2\u0660\uff11\u2581\ud800\U0001f600"
CHARACTERS = st.sampled_from(SPECIAL) | st.characters(exclude_categories=())
TEXTS = st.text(CHARACTERS, max_size=12) | st.sampled_from(
    ["batch:8", "batch:\u00b2", "batch:4,model:2", "gs://b/c", "ram://x", "~", "..", "", "__main__"]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-3, 9)
    | st.integers()
    | st.sampled_from([2**31, 2**63, -(2**63), 10**30])
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
    | st.binary(max_size=3)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=2).map(tuple)
        | st.dictionaries(st.sampled_from(["inputs", "targets", 1, "x"]), inner, max_size=3)
    ),
    max_leaves=4,
)
# What parameters of all kinds may take.
USUAL = (
    ["0", "1", "2", "8", "64", "0.1", "0.5", "1.0", "True", "False", "None", "'text'", "'relu'"]
    + ["['router']", "()", "[1, 2]", "{'inputs': 64, 'targets': 32}", "'float32'", "'tokens'"]
    + ["'batch:8'", "'batch:batch'", "'a b.txt'", "'argmax'", "'skip'", "'CPU'", "'run'"]
)
# A value as it is written in gin, or something that is none.
WRITTEN = (
    st.sampled_from(USUAL)
    | VALUES.map(repr)
    | st.sampled_from(
        ["%SEED", "%NO", "@fuzzed", "@fuzzed()", "@Adafactor", "@a/b", "[@fuzzed, 1]", "{1: %SEED}"]
        + [
            "{'a': @fuzzed}",
            "{'inputs': @fuzzed(), 'targets': 8}",
            "{@fuzzed: 1}",
            "{'a': [@fuzzed]}",
        ]
        + ["-%SEED", "-@fuzzed", "1e999", "0x" + "f" * 4000, "1j", "{1}", "f'x'", "'a' 'b'"]
        + ["[" * 400 + "]" * 400, "1_0", "0o7", "--1", "yes", "true", "None # no", "(1)", "(1,)"]
    )
    | st.text(CHARACTERS, max_size=12)
)
DECLARED = {
    f"{found.name}.{parameter}": annotation
    for found in configurables.project_source().configurables
    for parameter, annotation in (found.parameters or {}).items()
    if not found.selector.startswith("gin.")
} | dict(configurables.project_source().macros)
PARAMETERS = sorted(name for name in DECLARED if "." in name)
MACROS = sorted(
    {*configurables.project_source().macros, "MODEL_DIR", "BATCH_SIZE", "SEED", "TRAIN_STEPS"}
)
# Names with values that fit them, by themselves.
FITTING = [
    (name, text)
    for name, annotation in sorted(DECLARED.items())
    for text in USUAL
    if rules.fits(ast.literal_eval(text), annotation)
]
OF_FUZZED = [f"fuzzed.{name}" for name in fuzzed()]


@st.composite
def misspelt(draw, names):
    """A name, or one from which a part is taken or to which one is added."""
    name = draw(st.sampled_from(names))
    at = draw(st.integers(0, len(name)))
    how = draw(st.sampled_from(["as it is", "as it is", "less", "more", "scope", "another"]))
    if how == "less":
        return name[:at] + name[at + 1 :]
    if how == "more":
        return name[:at] + draw(CHARACTERS) + name[at:]
    if how == "another":
        return draw(TEXTS)
    return f"scope/{name}" if how == "scope" else name


def as_flag(name: str, text: str) -> str:
    """A flag that sets a name; as a process gets it, without NUL."""
    return f"--gin.{name}={text}".replace("\0", "")


def run(*argv: str) -> tuple[str, str]:
    """Runs a command in this process.

    Returns:
      "accepted", "refused" or "shown", and the line of the error or what is shown.

    Raises:
      AssertionError: it ended in another way than commands do.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main_module.main(list(argv))
        except Started:
            return "accepted", ""
        except SystemExit as end:
            if end.code:
                lines = err.getvalue().splitlines()
                assert end.code == _ERROR, f"status {end.code}"
                assert len(lines) == 1 and lines[0].startswith(_PREFIX), err.getvalue()
                assert len(lines[0]) > len(_PREFIX)
                return "refused", lines[0].removeprefix(_PREFIX)
            assert out.getvalue(), "it ended in silence"
            return "shown", out.getvalue()
    assert not err.getvalue(), err.getvalue()
    return "accepted", out.getvalue()


def expected(text: str) -> Any:
    """What a value is by Python's own reading; `_NOT_READ` if gin reads more, such as `@name`."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return _NOT_READ


def same(first: Any, second: Any) -> bool:
    """Whether two values are the same, also by their types."""
    return repr(first) == repr(second)


def value_arrives(name: str, text: str) -> None:
    """A value of any kind, for a parameter of each kind, through check, gin and call."""
    how, told = run("fuzzed", MODULE, as_flag(name, text))
    if how == "refused" or name not in OF_FUZZED:
        return
    arrived = fuzzed_command.arrived[name.removeprefix("fuzzed.")]
    wanted = expected(text.replace("\0", ""))
    assert wanted is _NOT_READ or same(arrived, wanted), (told, arrived, wanted)


def setting_is_checked(command: str, settings: list[tuple[str, str]]) -> None:
    """Settings of a real command, which are checked together with its files."""
    files = [f"--gin_file={name}" for name in FILES[command]]
    os.makedirs("run/checkpoint_7", exist_ok=True)
    flags = [*GIVEN[command], *(as_flag(name, text) for name, text in settings)]
    try:
        given = launch.check(command, "", [*files, *flags], run_file="plan.gin").given
    except UserError as error:
        assert str(error).strip()
        return
    except Started:
        return
    last = dict(settings)
    for name, text in last.items():
        wanted = expected(text.replace("\0", ""))
        if name in given and wanted is not _NOT_READ:
            is_again_set = command != "train" and name in ("MODEL_DIR", "TEACHER_PATH")
            assert is_again_set or same(given[name], wanted), (name, given[name], wanted)


def file_is_read(text: str) -> None:
    """A gin file, which is refused, or whose macros are to gin what they are to the check."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "fuzzed.gin")
        with open(path, "wb") as file:
            file.write(text.encode("utf-8", "surrogatepass"))
        try:
            given = config.precheck([path])
            config.load([path])
        except UserError as error:
            assert str(error).strip()
            return
        finally:
            macros = {name: _queried(name) for name in MACROS}
            gin.clear_config()
    for name in given.keys() & macros.keys():
        assert same(given[name], macros[name]), (name, given[name], macros[name])


def _queried(name: str) -> Any:
    try:
        return config.macro(name)
    except (UserError, ValueError, RecursionError):
        return None


def command_line_is_checked(argv: list[str]) -> None:
    """Arguments of all kinds, for any command."""
    run(*(argument.replace("\0", "") for argument in argv))


FLAGS = st.sampled_from(
    ["--help", "--version", "--gin_file", "--gin_file=models/switch_tiny.gin", "--gin_file="]
    + ["--gin_file=runs/pretrain.gin", "--gin_file=runs/plan.gin", "--gin_file=.", "--", "-", "-h"]
    + ["--num_examples=0", "--num_examples=x", "--statistics", "--statistics=1", "--split=train"]
    + ["--train_vocabulary=-1", "--train_vocabulary=8", "--character_coverage=nan", "--module=sys"]
    + ["--character_coverage=1", "--normalization=identity", "--module=", "--module=a b", "--gin."]
    + ["--tasks=glue", "--output_cache_dir=cache", "--min_shards=0", "--overwrite", "--gin.SEED"]
    + ["--output_dir=gs://x", "--output_dir=out", "--long", "--collectives", "--memory", "--dtypes"]
    + ["list", "run", "report", "quickstart", "layer", "train", "input", "decode", "glue", "copa"]
)
ARGUMENTS = st.lists(
    FLAGS
    | st.text(CHARACTERS, max_size=10)
    | misspelt(["--gin_file", "--num_examples", "--module", "--statistics"]).map(lambda f: f"{f}=3")
    | st.builds(as_flag, misspelt(MACROS + PARAMETERS), WRITTEN)
    | st.sampled_from(FITTING).map(lambda setting: as_flag(*setting)),
    max_size=5,
)
LINES = st.one_of(
    st.builds("{} = {}".format, misspelt(MACROS), WRITTEN),
    st.builds("{} = {}".format, misspelt(OF_FUZZED), WRITTEN),
    st.sampled_from(
        ["include 'fuzzed.gin'", "include 'models/switch_tiny.gin'", "include ''", "import sys"]
        + ["import no.such", "from __gin__ import dynamic_registration", "fuzzed:\n  whole = 1"]
        + ["fuzzed:", "  whole = 2", "SEED = \\\n  3", "BATCH_SIZE = [1,\n  2]", "# SEED = 4", "="]
    ),
    st.text(CHARACTERS, max_size=12),
)
PROPERTIES = {
    value_arrives: (misspelt(OF_FUZZED), WRITTEN),
    setting_is_checked: (
        st.sampled_from(sorted(FILES)),
        st.lists(
            st.sampled_from(FITTING) | st.tuples(misspelt(PARAMETERS + MACROS), WRITTEN),
            min_size=1,
            max_size=3,
        ),
    ),
    file_is_read: (
        st.builds(
            lambda first, lines, end: first + end.join(lines),
            st.sampled_from(["", "", "\ufeff"]),
            st.lists(LINES, max_size=4),
            st.sampled_from(["\n", "\r\n", "\n\n", "\r"]),
        ),
    ),
    command_line_is_checked: (
        st.builds(
            lambda command, arguments: [command, *arguments],
            st.sampled_from(sorted(main_module.COMMANDS)) | st.text(CHARACTERS, max_size=5),
            ARGUMENTS,
        ),
    ),
}


@contextlib.contextmanager
def without_tensorflow():
    """Context in which TensorFlow is not started, and there is the command `fuzzed`."""

    def start(*_, **__):
        raise Started

    before, module = runtime.start, types.SimpleNamespace(main=fuzzed_command)
    runtime.start = start
    sys.modules["switch_tf.commands.fuzzed"] = module
    main_module.COMMANDS["fuzzed"] = "for the fuzzing alone"
    try:
        yield
    finally:
        runtime.start = before
        del main_module.COMMANDS["fuzzed"], sys.modules["switch_tf.commands.fuzzed"]
        gin.clear_config()


def trial(function, **settings: Any):
    """A property of `PROPERTIES`, to be called: it is tried on random arguments.

    Of arguments with which it fails, the smallest are shown.

    Args:
      function: the property.
      **settings: see `hypothesis.settings`.
    """
    every = list(hypothesis.HealthCheck)
    chosen = hypothesis.settings(deadline=None, suppress_health_check=every, **settings)
    return chosen(hypothesis.given(*PROPERTIES[function])(function))


def main() -> None:
    """Tries all properties in turn, each time with another seed, for some minutes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    minutes = parser.parse_args().minutes
    until, tried = time.monotonic() + 60.0 * minutes, collections.Counter()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), without_tensorflow():
        while time.monotonic() < until:
            for function in PROPERTIES:
                seed = random.randrange(2**32)
                print(f"{function.__name__}, seed {seed}", flush=True)
                hypothesis.seed(seed)(trial(function, database=None, max_examples=_EACH))()
                tried[function.__name__] += _EACH
    for name, count in tried.items():
        print(f"{name}: {count:,} tried, each accepted as given or refused in a line")


if __name__ == "__main__":
    main()

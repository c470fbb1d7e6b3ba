import importlib
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import types

import gin
import pytest
import tensorflow as tf

from switch_tf import runtime
from switch_tf.commands import checks, flags, launch
from switch_tf.commands import main as main_module
from switch_tf.errors import UserError
from tests.commands.without_tensorflow import run_without_tensorflow


@pytest.fixture
def subcommand(monkeypatch):
    """Puts a function in the place of `switch-tf tasks`."""

    def replace(function):
        module = types.SimpleNamespace(main=function)
        monkeypatch.setattr(importlib, "import_module", lambda name: module)

    return replace


def test_help_lists_the_commands_and_needs_no_tensorflow():
    done = run_without_tensorflow("--help")
    assert done.returncode == 0, done.stderr
    for command in main_module.COMMANDS:
        assert f"\n  {command} " in done.stdout


@pytest.mark.parametrize("command", main_module.COMMANDS)
def test_help_of_a_command_needs_no_tensorflow(command):
    done = run_without_tensorflow(command, "--help")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", main_module.COMMANDS)
def test_an_unknown_flag_is_one_line_and_status_2(command):
    done = run_without_tensorflow(command, "--no_such_flag")
    assert done.returncode == 2
    assert done.stderr.startswith("switch-tf: error: ")
    assert "--no_such_flag" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_task_module_under_its_old_name_is_told_before_tensorflow_starts():
    done = run_without_tensorflow("tasks", "--module=tasks.c4")
    assert (done.returncode, done.stderr) == (
        2,
        "switch-tf: error: --module: the module 'tasks.c4' is called 'switch_tf.tasks.c4': use "
        "that name\n",
    )


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 8.00 TiB for an array"),
        RuntimeError(
            "Graph execution error:\n... OOM when allocating tensor with shape[20000,20000,32] and "
            "type float on CPU:0"
        ),
    ],
)
def test_too_little_memory_is_one_line_with_what_to_lower(subcommand, capsys, error):
    def fail(argv):
        raise error

    subcommand(fail)
    with pytest.raises(SystemExit) as end:
        main_module.main(["tasks"])
    line = capsys.readouterr().err
    assert end.value.code == 2 and line.count("\n") == 1
    assert line.startswith("switch-tf: error: there is too little memory: ")
    assert "8.00 TiB" in line or "shape[20000,20000,32]: lower BATCH_SIZE" in line


def test_a_command_starts_anew_as_it_was_started_at_first():
    code = (
        "import importlib, os, sys, types\n"
        "from switch_tf.commands import main\n"
        "from switch_tf.errors import Restart\n"
        "number = os.environ.get('NUMBER', 'none')\n"
        "def run(argv):\n"
        "    marks = open(argv[0]).read()\n"
        "    open(argv[0], 'a').write('x')\n"
        "    print('process', os.getpid(), number, argv)\n"
        "    os.environ['NUMBER'] = 'changed'\n"
        "    if len(marks) < 2:\n"
        "        raise Restart\n"
        "importlib.import_module = lambda name: types.SimpleNamespace(main=run)\n"
        "sys.argv[1:] = ['tasks', sys.argv[1]]\n"
        "main.entry()\n"
    )
    with tempfile.NamedTemporaryFile() as marks:
        command = [sys.executable, "-u", "-c", code, marks.name]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 3 and len({*lines}) == 1 and " none " in lines[0]


def test_a_signal_that_comes_while_a_command_starts_anew_ends_it():
    code = (
        "import importlib, os, signal, sys, types\n"
        "from switch_tf import process\n"
        "from switch_tf.commands import main\n"
        "from switch_tf.errors import Restart\n"
        "def run(argv):\n"
        "    print('runs', flush=True)\n"
        "    raise Restart\n"
        "if process.has_restarted():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "importlib.import_module = lambda name: types.SimpleNamespace(main=run)\n"
        "sys.argv[1:] = ['tasks']\n"
        "main.entry()\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert (done.returncode, done.stdout) == (143, "runs\n")
    assert done.stderr.startswith("switch-tf: interrupted by SIGTERM: ")
    assert done.stderr.count("\n") == 1


def test_a_command_is_a_module_with_main_and_a_line_of_the_list(monkeypatch, capsys):
    def hello(argv):
        """What a module `switch_tf.commands.hello` would have as its `main`."""
        parser = flags.Parser(prog="switch-tf hello", description="Says hello.")
        parser.add_argument("--name", default="you", help="to whom (you)")
        print(f"hello, {parser.parse_args(argv).name}")

    monkeypatch.setitem(sys.modules, "switch_tf.commands.hello", types.SimpleNamespace(main=hello))
    monkeypatch.setitem(main_module.COMMANDS, "hello", "say hello")
    main_module.main(["hello", "--name=Ada"])
    assert capsys.readouterr().out == "hello, Ada\n"
    with pytest.raises(SystemExit):
        main_module.main(["hello", "--nam=Ada"])
    error = "switch-tf: error: unknown flag '--nam'; nearest: --name\n"
    assert capsys.readouterr().err == error
    with pytest.raises(SystemExit):
        main_module.main(["--help"])
    assert "\n  hello      say hello\n" in capsys.readouterr().out


def test_what_the_terminal_cannot_show_is_shown_by_its_number(subcommand, monkeypatch):
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", shown)
    subcommand(lambda argv: print("d\xe9j\xe0 vu \u2581 \ud800"))
    main_module.main(["tasks"])
    shown.flush()
    assert shown.buffer.getvalue() == b"d\\xe9j\\xe0 vu \\u2581 \\ud800\n"


def test_a_command_that_takes_gin_says_what_it_needs(monkeypatch, capsys):
    def count(argv):
        """What a module `switch_tf.commands.count` would have as its `main`."""
        launch.check(
            "count", "Counts the rows of a batch.", argv, launch.TASK, "pretrain.gin"
        ).start()
        from switch_tf.data.task_data import TaskData

        print(f"{TaskData().batch_size} rows")

    monkeypatch.setitem(sys.modules, "switch_tf.commands.count", types.SimpleNamespace(main=count))
    monkeypatch.setitem(main_module.COMMANDS, "count", "count rows")
    model = "--gin_file=models/t5_tiny.gin"
    main_module.main(["count", model, "--gin_file=runs/pretrain.gin"])
    assert capsys.readouterr().out == "64 rows\n"
    gin.clear_config()
    with pytest.raises(SystemExit):
        main_module.main(["count", model])
    assert "sets TaskData.batch_size: add --gin_file=runs/pretrain.gin" in capsys.readouterr().err


def test_an_unknown_command_is_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        main_module.main(["trian"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("switch-tf: error: ") and "'trian'" in error and "train" in error
    assert error.count("\n") == 1


def test_the_arguments_after_the_command_are_passed_on(subcommand):
    seen = []
    subcommand(seen.append)
    main_module.main(["tasks", "--help", "NAME"])
    assert seen == [["--help", "NAME"]]


def test_a_user_error_is_one_line_and_status_2(subcommand, capsys):
    def fail(argv):
        raise UserError("x is wrong;\n mend it")

    subcommand(fail)
    with pytest.raises(SystemExit) as stop:
        main_module.main(["tasks"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "switch-tf: error: x is wrong; mend it\n"


MODEL, DATA = "--gin_file=models/switch_tiny.gin", "--gin_file=runs/pretrain.gin"
# Arguments of each command; {} is a folder with an empty checkpoint.
ARGUMENTS = {
    "train": [MODEL, DATA, "--gin.MODEL_DIR='{}/new'"],
    "eval": [MODEL, DATA, "--gin_file=runs/eval.gin", "--gin.CHECKPOINT_PATH='{}'"],
    "plan": [MODEL, "--gin_file=runs/plan.gin"],
    "bench": ["layer", MODEL, "--gin_file=runs/plan.gin"],
    "cache": ["--tasks=pydocs_copa", "--output_cache_dir={}"],
    "tasks": [],
    "reproduce": ["run", "quickstart", "--output_dir={}"],
}


@pytest.mark.parametrize("command", main_module.COMMANDS)
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_before_tensorflow_is_there_is_one_line_and_the_status_of_the_shell(
    command, number, status, tmp_path, monkeypatch, capsys
):
    (tmp_path / "checkpoint_7").mkdir()
    monkeypatch.setattr(runtime, "start", lambda *_, **__: os.kill(os.getpid(), number))
    with pytest.raises(SystemExit) as stop:
        main_module.main([command, *(text.format(tmp_path) for text in ARGUMENTS[command])])
    assert stop.value.code == status
    told = capsys.readouterr().err.removeprefix("starting TensorFlow\n")
    assert told == (
        f"switch-tf: interrupted by {number.name}: only what was already written is kept; rerun "
        "the command\n"
    )


def test_an_interrupted_process_ends_at_once_whatever_its_threads_do():
    code = (
        "import os, threading, time; from switch_tf.commands import main as m;"
        "threading.Thread(target=time.sleep, args=[60]).start();"
        "m._run = lambda _: os.kill(os.getpid(), 15); m.entry()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.returncode == 143
    assert done.stderr.startswith("switch-tf: interrupted by SIGTERM: ")
    assert done.stderr.count("\n") == 1


def test_help_says_with_which_status_an_interrupted_command_ends(capsys):
    for argv in ([], ["train"], ["reproduce"]):
        with pytest.raises(SystemExit):
            main_module.main([*argv, "--help"])
        told = capsys.readouterr().out
        assert "Ctrl-C" in told and "130" in told and "143" in told


def test_a_defect_keeps_its_traceback(subcommand):
    subcommand(lambda argv: checks.check_spans(0))
    with pytest.raises(AttributeError):
        main_module.main(["tasks"])


def test_a_remote_file_system_that_fails_is_one_line_and_the_status_of_a_temporary_failure(
    subcommand, capsys
):
    def fail(argv):
        raise tf.errors.UnavailableError(None, None, "HTTP 503\n\t when reading gs://b/object")

    subcommand(fail)
    with pytest.raises(SystemExit) as ended:
        main_module.main(["tasks"])
    assert ended.value.code == 75
    assert capsys.readouterr().err == (
        "switch-tf: error: a remote file system fails: HTTP 503; this may pass: rerun the command "
        "to go on\n"
    )


def test_an_error_in_a_users_code_is_one_line_with_its_place(subcommand, capsys):
    def fail(argv):
        raise ValueError("a mistake\non two lines")

    subcommand(fail)
    with pytest.raises(SystemExit) as ended:
        main_module.main(["tasks"])
    assert ended.value.code == 2
    place = r"\S*test_main.py:\d+, in fail: ValueError: a mistake on two lines"
    assert re.fullmatch(f"switch-tf: error: {place}\n", capsys.readouterr().err)


def test_gin_values_are_taken_out_of_the_command_line():
    argv = ["--gin_file=a.gin", "--gin.A=1", "--gin.B", "'x=y'", "--other", "--gin.C.d='-'"]
    assert flags.split_gin_args(argv) == (
        ["A=1", "B='x=y'", "C.d='-'"],
        ["--gin_file=a.gin", "--other"],
    )


@pytest.mark.parametrize(
    "argv", [["--gin.A"], ["--gin.A="], ["--gin.=1"], ["--gin.A", "--gin.B=1"]]
)
def test_a_gin_flag_without_name_or_value_is_refused(argv):
    with pytest.raises(UserError, match="lacks a name or a value: write --gin.NAME=VALUE"):
        flags.split_gin_args(argv)


def test_gin_files_may_be_repeated():
    parser = flags.Parser(prog="switch-tf train")
    flags.add_gin_flags(parser)
    assert parser.parse_args(["--gin_file=a", "--gin_file", "b"]).gin_file == ["a", "b"]
    assert parser.parse_args([]).gin_file == []
    assert "--gin.NAME" in parser.format_help()


def test_an_unknown_flag_names_the_nearest():
    parser = flags.Parser(prog="switch-tf train")
    flags.add_gin_flags(parser)
    with pytest.raises(UserError, match="^unknown flag '--gin-file'; nearest: --gin_file$"):
        parser.parse_args(["--gin-file=a.gin"])
    for flag, setting in {"--steps": "TRAIN_STEPS", "--model_dir": "MODEL_DIR"}.items():
        told = f"^unknown flag '{flag}'; settings are gin's: --gin.{setting}=VALUE$"
        with pytest.raises(UserError, match=told):
            parser.parse_args([f"{flag}=3"])
    with pytest.raises(UserError, match="^unexpected argument 'x'; see switch-tf train --help$"):
        parser.parse_args(["x"])


def test_a_reader_that_has_enough_is_no_error():
    code = (
        "from switch_tf.commands import main as m; m._run = lambda _: [print('x' * 99) for _ in "
        "range(9999)]; m.main([])"
    )
    command = f'"{sys.executable}" -c "{code}" | head -1; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (141, "")
    assert done.stdout == "x" * 99 + "\n"


def test_a_user_who_ends_a_command_by_sys_exit_is_told_where(subcommand, capsys, tmp_path):
    path = tmp_path / "own.py"
    path.write_text("import sys\n\n\ndef metric():\n    sys.exit('stop')\n")
    code = compile(path.read_text(), str(path), "exec")
    names = {}
    exec(code, names)
    subcommand(lambda argv: names["metric"]())
    with pytest.raises(SystemExit) as end:
        main_module.main(["tasks"])
    assert end.value.code == 2
    assert re.search(r"own\.py:5, in metric: SystemExit: stop$", capsys.readouterr().err.strip())

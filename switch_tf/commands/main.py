"""`switch-tf COMMAND ...`: dispatches to the subcommand and reports errors on one line."""

import contextlib
import importlib
import os
import re
import sys
from collections.abc import Sequence

from switch_tf import __version__, process, storage, user_code
from switch_tf.commands.flags import Parser
from switch_tf.errors import Restart, UserError
from switch_tf.metrics.tables import table

# Each command is `main(argv)` of the module with its name in this package.
COMMANDS = {
    "train": "pre-train or fine-tune a model",
    "eval": "evaluate a checkpoint",
    "plan": "show a model's size, its placement on a mesh and what a step communicates",
    "bench": "time a part of a run on this machine",
    "cache": "preprocess tasks once, with SeqIO's Beam pipeline",
    "tasks": "list tasks and mixtures, or show examples of one",
    "reproduce": "run an experiment of several runs, and make its table and picture",
}
# The exit status that shells report for a process ended by SIGPIPE: 128 + 13.
_READER_GONE = 141


def main(argv: Sequence[str] | None = None) -> None:
    """Runs `switch-tf` with `argv`, by default the process's own arguments.

    A `UserError`, or an error in a user's own code, becomes one line on stderr and exit status 2;
    an `Interruption`, 128 + the signal's number.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    _show_any_text()
    try:
        with process.interruptible("switch-tf"):
            _run(argv)
    except UserError as error:
        print(f"switch-tf: error: {_one_line(error)}", file=sys.stderr)
        sys.exit(error.status)
    except BrokenPipeError:
        # The reader, such as `head`, has closed the pipe; avoid an error from Python's last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(_READER_GONE)
    except (Exception, SystemExit) as error:
        if storage.is_passing(error) and not user_code.quotes_traceback(error):
            failure = storage.failure("a remote file system fails", error)
            print(f"switch-tf: error: {_one_line(failure)}", file=sys.stderr)
            sys.exit(failure.status)
        # The second is also how a user's code ends with sys.exit.
        place = _lack_of_memory(error) or user_code.place_of(error)
        # A defect of this project keeps its traceback, and a command ends with its status.
        if place is None:
            raise
        print(f"switch-tf: error: {place}", file=sys.stderr)
        sys.exit(UserError.status)


def entry() -> None:
    """The console command: runs `main`, then exits, or restarts, without TensorFlow's clean-up.

    TensorFlow takes five seconds to shut its devices down, when all files are already closed, and
    threads of an interrupted command may never end.
    """
    status = 0
    process.ends_at_once()
    try:
        main()
    except SystemExit as end:
        status = end.code or 0
    except Restart:
        process.restart()
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _show_any_text() -> None:
    """Has what the terminal cannot show, such as an accent in ASCII, shown by its number."""
    for stream in (sys.stdout, sys.stderr):
        if stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")


def _lack_of_memory(error: BaseException) -> str | None:
    """A line on an error for lack of memory; None for others."""
    allocated = re.search(r"OOM when allocating tensor with shape\s*\[[\d,]*\]", str(error))
    if not isinstance(error, MemoryError) and not allocated:
        return None
    what = allocated[0] if allocated else storage.first_line(error)
    return (
        f"there is too little memory: {what}: lower BATCH_SIZE or TASK_FEATURE_LENGTHS, set "
        "TrainStep.microbatches, or take a smaller model; docs/training.md says more under "
        "'Larger models'"
    )


def _one_line(error: UserError) -> str:
    # Gin appends a line that names the configurable in whose call the error occurred.
    message = re.split(r"\n\s*In call to configurable", str(error))[0]
    return " ".join(message.split())


def _run(argv: list[str]) -> None:
    # Only the first argument is ours; the flags after it are the subcommand's.
    command = _parser().parse_args(argv[:1]).command
    # Imported here, so that --help and errors at this level skip the subcommand's imports.
    module = importlib.import_module(f"switch_tf.commands.{command}")
    module.main(argv[1:])


def _parser() -> Parser:
    listing = "\n  ".join(table(COMMANDS.items()))
    parser = Parser(
        prog="switch-tf",
        usage="switch-tf COMMAND [flags]",
        description=f"Switch Transformers on TensorFlow.\n\ncommands:\n  {listing}",
        epilog="switch-tf COMMAND --help shows the flags of a command.\n\n"
        "exit status: 0 if all is done, 1 for a defect of switch-tf, 2 for invalid input or an "
        "error in your own code, 75 if another host of the run was lost, data do not come or a "
        "remote file system fails for now, so that a rerun may help, 130 after Ctrl-C, 143 after "
        "SIGTERM",
    )
    parser.add_argument("--version", action="version", version=f"switch-tf {__version__}")
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS, help="one of the above")
    return parser


if __name__ == "__main__":
    entry()

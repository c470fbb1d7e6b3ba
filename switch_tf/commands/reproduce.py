"""`switch-tf reproduce`: runs an experiment and prints its table."""

import functools
from collections.abc import Sequence
from pathlib import Path

from switch_tf import runtime, storage
from switch_tf.commands.flags import Parser
from switch_tf.metrics.tables import table
from switch_tf.reproduce import registry


def main(argv: Sequence[str]) -> None:
    """Runs an experiment, skipping the runs that are already done.

    Raises:
      UserError: flags are invalid, the experiment does not exist, or a run failed.
      Interruption: a run was interrupted.
    """
    args = _parser().parse_args(argv)
    experiment = registry.find(args.experiment, args.variant)
    folder = args.output_dir or Path("runs") / experiment.name
    runtime.start()
    from switch_tf.reproduce.runner import run

    report = run(experiment, folder)
    files = report.write(folder)
    print("\n" + report.table() + "\n")
    for line in report.verdicts:
        print(line)
    print(f"written to {folder}: {', '.join(files)}")


def _parser() -> Parser:
    rows = (
        (" ".join((name, *(f"[--{flag}]" for flag in e.variants))), f"{e.reproduces}: {e.claim}")
        for name, e in registry.EXPERIMENTS.items()
    )
    parser = Parser(
        prog="switch-tf reproduce",
        description="Runs an experiment and ends with its table and picture. Ctrl-C or SIGTERM "
        "saves what\nis trained and ends with status 130 or 143; rerun the command to resume.\n\n"
        "experiments:\n  " + "\n  ".join(table(rows)),
        epilog="example:\n  switch-tf reproduce quickstart --output_dir=runs/quickstart",
    )
    parser.add_argument("experiment", metavar="NAME", help="one of the above")
    parser.add_argument(
        "--output_dir",
        type=functools.partial(storage.local_path, "--output_dir"),
        help="local folder for runs and report (runs/NAME)",
    )
    flags = parser.add_mutually_exclusive_group()
    for flag, found in registry.variants().items():
        text = "; ".join(f"for {name}: {variant.size}" for name, variant in found)
        flags.add_argument(f"--{flag}", action="store_const", const=flag, dest="variant", help=text)
    return parser

"""`switch-tf reproduce`: runs an experiment and prints its table."""

import time
from collections.abc import Sequence
from pathlib import Path

from switch_tf import runtime
from switch_tf.commands.flags import Parser

EXPERIMENTS = ("quickstart",)


def main(argv: Sequence[str]) -> None:
    """Runs an experiment; what was run before is not run again.

    Raises:
      UserError: bad flags; a run that failed or was interrupted.
    """
    parser = Parser(
        prog="switch-tf reproduce",
        description="Runs an experiment and ends with its table and picture. The same command "
        "again goes on where it stopped.",
        epilog="example:\n  switch-tf reproduce quickstart --output_dir=runs/quickstart",
    )
    parser.add_argument("experiment", metavar="NAME", choices=EXPERIMENTS, help="quickstart")
    parser.add_argument(
        "--long",
        action="store_true",
        help="4,000 steps, sixteen experts, a second seed of each model: over an hour",
    )
    parser.add_argument("--output_dir", help="runs and report go there (runs/NAME)")
    args = parser.parse_args(argv)
    name = args.experiment + ("_long" if args.long else "")
    folder = Path(args.output_dir or Path("runs") / name)
    started = time.monotonic()
    runtime.start()
    from switch_tf.data import registry
    from switch_tf.reproduce import quickstart, report

    registry.load_project_modules()
    registry.prepare(registry.find("pydocs_finetune"))
    found = quickstart.run(quickstart.LONG if args.long else quickstart.SHORT, folder)
    found.write(folder)
    print("\n" + found.table() + "\n")
    for line in report.verdicts(found):
        print(line)
    minutes, seconds = divmod(round(time.monotonic() - started), 60)
    print(f"written to {folder}: report.md, report.png, report.json; in {minutes} min {seconds} s")

"""`switch-tf reproduce`: lists and runs experiments, and makes their reports."""

import argparse
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

from switch_tf import runtime, storage
from switch_tf.commands.flags import Parser
from switch_tf.errors import UserError
from switch_tf.metrics.tables import table
from switch_tf.reproduce import paper_scale, registry, schedulers
from switch_tf.reproduce.experiment import Experiment
from switch_tf.stages import importing, telling

_RESULTS = Path("docs", "results")
_ACTIONS = {
    "list": "list the experiments: what each repeats, its claim, its runs and their time",
    "run": "run an experiment, but for what is done, and make its report",
    "report": "make the report of an experiment whose runs are done, again",
}


def main(argv: Sequence[str]) -> None:
    """Runs `switch-tf reproduce`.

    Raises:
      UserError: flags are invalid, the experiment does not exist, a run failed or, for a report, is
        not done.
      Interruption: a run was interrupted.
    """
    if argv and argv[0] in registry.EXPERIMENTS:
        raise UserError(f"say what to do with '{argv[0]}': switch-tf reproduce run {argv[0]}")
    action = _parser().parse_args(argv[:1]).action
    if action == "list":
        _list(argv[1:])
        return
    args = _parser_of(action).parse_args(argv[1:])
    if action == "report" and args.html:
        _write_html(args)
        return
    if args.experiment is None:
        raise UserError("name an experiment, or give --html for a page with all of them")
    experiment = registry.find(args.experiment, args.variant)
    if args.data_dir is not None:
        if not experiment.brings_data:
            raise UserError(f"'{experiment.name}' needs no data of yours: leave out --data_dir")
        experiment = dataclasses.replace(experiment, data_dir=args.data_dir)
    folder = args.output_dir or Path("runs") / (experiment.folder or experiment.name)
    results_dir = args.results_dir or (_RESULTS if experiment.is_shared else folder)
    if action == "run" and args.scale == "paper":
        _write_paper_scale(experiment.name, args.output_dir)
    elif action == "run" and args.scheduler:
        print(schedulers.script(experiment, folder, results_dir, args.scheduler), end="")
    else:
        only = args.only if action == "run" else None
        _train_or_report(action, experiment, folder, results_dir, only)


def _train_or_report(
    action: str, experiment: Experiment, folder: Path, results_dir: Path, only: int | None
) -> None:
    with importing("starting TensorFlow"):
        runtime.start()
        from switch_tf.reproduce import runner, summary

    if only is not None:
        runner.run_one(experiment, folder, results_dir, only)
        return
    report = getattr(runner, action)(experiment, folder, results_dir)
    files = report.write(results_dir, experiment.name if experiment.is_shared else "report")
    print("\n" + report.table() + "\n")
    for line in report.verdicts:
        print(line)
    print(f"written to {results_dir}: {', '.join(files)}")
    if experiment.is_shared:
        print(f"all results: {summary.write(results_dir)}")


def _write_html(args: argparse.Namespace) -> None:
    """Writes the page with all results; raises `UserError` if there are none."""
    if args.experiment is not None:
        raise UserError(f"--html is a page with all results: leave out '{args.experiment}'")
    with importing("starting TensorFlow"):
        runtime.start()
        from switch_tf.reproduce import runner

    folder, results_dir = args.output_dir or Path("runs", "mini"), args.results_dir or _RESULTS
    path = results_dir.with_suffix(".html")
    experiments = list(registry.EXPERIMENTS.values())
    count = runner.write_html(experiments, folder, results_dir, path)
    print(f"written to {path}: {count} experiments")


def _write_paper_scale(name: str, folder: Path | None) -> None:
    """Writes the paper's own runs; raises `UserError` if the experiment has none."""
    folder = folder or Path("runs", "paper", name)
    paper_scale.runs(name)
    with importing("starting TensorFlow"):
        runtime.start()
        from switch_tf.reproduce.paper_slices import Costs
    with telling("planning the runs"):
        *files, commands = paper_scale.write(name, folder, Costs())
    print(
        f"written to {folder}: {len(files)} gin files, one a run, and {commands}, which runs them"
    )
    print("switch-tf plan takes the same flags as switch-tf train, and says what a run needs")


def _list(argv: Sequence[str]) -> None:
    Parser(prog="switch-tf reproduce list", description=_sentence("list")).parse_args(argv)
    for line in table([("name", "what it repeats", "runs", "minutes", "claim"), *_rows()]):
        print(line)


def _rows() -> Iterator[tuple[str, ...]]:
    for name, experiment in registry.EXPERIMENTS.items():
        yield _row(name, experiment)
        for flag, variant in experiment.variants.items():
            yield _row(f"{name} --{flag}", variant)


def _row(name: str, experiment: Experiment) -> tuple[str, ...]:
    runs = [run for of_seeds in experiment.runs(Path(), Path()).values() for run in of_seeds]
    minutes = sum(run.minutes for run in runs)
    claims = "; ".join(claim.text for claim in experiment.claims)
    return name, experiment.reproduces, str(len(runs)), f"{minutes:.0f}", claims


def _sentence(action: str) -> str:
    text = _ACTIONS[action]
    return f"{text[0].upper()}{text[1:]}."


def _parser() -> Parser:
    listing = "\n  ".join(table(_ACTIONS.items()))
    parser = Parser(
        prog="switch-tf reproduce",
        usage="switch-tf reproduce ACTION [NAME] [flags]",
        description=f"Repeats results of the paper at a small size.\n\nactions:\n  {listing}",
        epilog="example:\n  switch-tf reproduce run quickstart --output_dir=runs/quickstart\n\n"
        "switch-tf reproduce ACTION --help shows the flags of an action. Ctrl-C or SIGTERM saves\n"
        "what is trained and ends with status 130 or 143; rerun the command to resume.",
    )
    parser.add_argument("action", metavar="ACTION", choices=_ACTIONS, help="one of the above")
    return parser


def _parser_of(action: str) -> argparse.ArgumentParser:
    names = "\n  ".join(registry.EXPERIMENTS)
    parser = Parser(
        prog=f"switch-tf reproduce {action}",
        description=f"{_sentence(action)}\n\nexperiments:\n  {names}",
        epilog="switch-tf reproduce list says what they are.",
    )
    is_report = action == "report"
    parser.add_argument(
        "experiment", metavar="NAME", help="one of the above", nargs="?" if is_report else None
    )
    if is_report:
        parser.add_argument(
            "--html",
            action="store_true",
            help="without NAME: one page with all results, whose plots can be hovered "
            "(docs/results.html)",
        )
    _add_folders(parser)
    if action == "run":
        _add_scale(parser)
    flags = parser.add_mutually_exclusive_group()
    for flag, found in registry.variants().items():
        text = "; ".join(f"for {name}: {variant.size}" for name, variant in found)
        flags.add_argument(f"--{flag}", action="store_const", const=flag, dest="variant", help=text)
    parser.set_defaults(variant=None)
    return parser


def _add_folders(parser: Parser) -> None:
    parser.add_argument(
        "--output_dir",
        type=functools.partial(storage.local_path, "--output_dir"),
        help="local folder for runs; experiments that share a folder share runs (runs/NAME, or "
        "runs/mini for the paper's tables and figures)",
    )
    parser.add_argument(
        "--results_dir",
        type=functools.partial(storage.local_path, "--results_dir"),
        help="local folder for the report and the result of each run, which stay when the runs are "
        "removed (docs/results; for the quickstart, the folder of its runs)",
    )
    parser.add_argument(
        "--data_dir",
        help="for the tables on published tasks, such as table5_super_glue: the folder of their "
        "data, as the macro DATA_DIR (what TFDS has prepared)",
    )


def _add_scale(parser: Parser) -> None:
    parser.add_argument(
        "--scale",
        choices=("mini", "paper"),
        default="mini",
        help="mini: models for two cores; paper: only writes gin files and commands of the "
        "paper's own runs, by default to runs/paper/NAME (mini)",
    )
    one = parser.add_mutually_exclusive_group()
    one.add_argument(
        "--scheduler",
        choices=schedulers.SCHEDULERS,
        help="print a script that queues each run as a job, and train nothing",
    )
    one.add_argument(
        "--only",
        type=int,
        metavar="NUMBER",
        help="train one of the runs, as a job of such a script does, and make no report",
    )

"""The commands of `scripts/tpu`: `python -m switch_tf.cloud COMMAND ...`."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from switch_tf.cloud import gcloud
from switch_tf.cloud import tpu as tpus
from switch_tf.cloud.model_dir import ModelDir
from switch_tf.cloud.supervise import Supervisor
from switch_tf.errors import UserError

_INTERRUPTED = 130
_EXAMPLE = "-- train --gin_file=models/switch_base.gin ..."
_TAKES_COMMAND = ("launch", "supervise")


class _Parser(argparse.ArgumentParser):
    """Reports a wrong flag as a UserError."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command of `scripts/tpu`; returns the exit status.

    Args:
      argv: the command's name and its flags, and for some, behind `--`, what the workers are to
        run: a subcommand of switch-tf with its flags.
    """
    name, *words = sys.argv[1:] if argv is None else argv
    try:
        flags, command = _split(name, words)
        args = _parser(name).parse_args(flags)
        return globals()[f"_{name}"](args, command) or 0
    except UserError as error:
        print(f"{_script(name)}: error: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print(f"{_script(name)}: interrupted", file=sys.stderr)
        return _INTERRUPTED


def _script(name: str) -> str:
    return f"scripts/tpu/{name}.sh"


def _split(name: str, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The script's flags, and the command that the workers are to run."""
    words = list(words)
    if name not in _TAKES_COMMAND:
        return words, []
    if "--" not in words:
        if {"-h", "--help"} & set(words):
            return words, []
        raise UserError(f"give behind -- what the workers are to run: NAME {_EXAMPLE}")
    place = words.index("--")
    command = words[place + 1 :]
    if not command or not command[0].isalpha():
        raise UserError(f"give a subcommand of switch-tf behind --: NAME {_EXAMPLE}")
    return words[:place], ["switch-tf", *command]


def _parser(name: str) -> argparse.ArgumentParser:
    about = {
        "create": "Puts a request for a slice into the queue.",
        "set_up": "Copies the project, at a commit, to all workers, and installs it there.",
        "launch": "Starts a command on all workers; it goes on when the connection ends.",
        "follow": "Shows the log of a worker, and what comes.",
        "stop": "Has the run save its step and end.",
        "delete": "Deletes a slice, or its request.",
        "list": "Lists the slices and requests of a zone.",
        "supervise": "Creates, sets up, launches and watches, also over a slice's loss, until the "
        "run ends. Its exit status is the run's; then the slice is deleted.",
    }[name]
    usage = f" {_EXAMPLE}" if name in _TAKES_COMMAND else ""
    parser = _Parser(prog=_script(name), description=about, epilog=usage and f"NAME{usage}")
    if name != "list":
        parser.add_argument("name", metavar="NAME", help="of the slice and its request")
    add = parser.add_argument
    add("--project", default=os.environ.get("CLOUDSDK_CORE_PROJECT", ""))
    add("--zone", default=os.environ.get("CLOUDSDK_COMPUTE_ZONE", ""))
    add("--dry-run", action="store_true", help="only show the commands")
    if name in ("create", "supervise"):
        _add_request(parser)
    if name in ("set_up", "supervise"):
        add("--commit", default="HEAD", help="what to install (default: HEAD)")
    if name == "follow":
        add("--worker", type=_count, default=0, help="which (default: 0, the chief)")
        add("--lines", type=_count, default=100, help="how many to begin with (default: 100)")
    if name == "stop":
        add("--wait", type=_count, default=600, metavar="SECONDS", help="for it to save its step")
        add("--kill", action="store_true", help="do not save: lose the steps since a checkpoint")
    if name == "delete":
        add("--force", action="store_true", help="also if a run goes on there")
    if name == "supervise":
        _add_supervision(parser)
    return parser


def _add_request(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--type", required=True, help="accelerator type, such as v4-32")
    add("--tier", choices=tpus.TIERS, default="on-demand", help="how it is paid for")
    add("--runtime", help="software of the machines (default: Google's for the type)")
    add("--valid_until", metavar="TIME", help="how long the request may wait, such as 6h")
    add("--service_account", metavar="MAIL", help="as whom the machines use storage")


def _add_supervision(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    defaults = Supervisor.__dataclass_fields__
    for flag, kind, text in (
        ("poll", _seconds, "seconds between two looks"),
        ("silence", _seconds, "seconds without progress in the log that mean that the run hangs"),
        ("tries", _count, "failures in a row, without a new checkpoint, that end the supervision"),
    ):
        default = defaults[flag].default
        add(f"--{flag}", type=kind, default=default, help=f"{text} (default: {default:g})")
    add("--keep", action="store_true", help="leave the slice, which costs money, at the end")
    add("--adopt", action="store_true", help="take over, and so delete, a slice of another command")


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return seconds


def _slice(args: argparse.Namespace) -> tpus.Slice:
    shell = gcloud.Shell(args.dry_run)
    found = tpus.Slice(args.name, args.project, args.zone, shell)
    found.check()
    return found


def _request(args: argparse.Namespace) -> tpus.Request:
    found = tpus.Request(
        tpus.api_type(args.type), args.tier, args.runtime, args.valid_until, args.service_account
    )
    found.check()
    return found


def _create(args: argparse.Namespace, _) -> None:
    tpu, request = _slice(args), _request(args)
    try:
        tpu.create(request)
        if not args.dry_run:
            tpu.kept.disclaim()
    except gcloud.Failure as failure:
        if failure.cause is not gcloud.Cause.EXISTS:
            raise
        state = tpu.queue_state()[0]
        raise UserError(
            f"{tpu.name} exists in {tpu.zone}, in state {state}: use it, delete it first "
            f"({_script('delete')} {tpu.name}), or give another NAME"
        ) from failure


def _set_up(args: argparse.Namespace, _) -> None:
    tpu = _slice(args)
    if not args.dry_run:
        _check_there(tpu)
        _check_idle(tpu)
    tpu.set_up(tpu.archive(args.commit))


def _launch(args: argparse.Namespace, command: Sequence[str]) -> None:
    tpu = _slice(args)
    model_dir = ModelDir.of(command, tpu.shell)
    if not args.dry_run:
        node = _check_there(tpu)
        if node.type:
            tpus.check_files(command, node.type, f"{tpu.name} is a {node.type}")
        number = node.number
        workers = _check_idle(tpu)
        silent = _silent(number, workers)
        codes = {worker.code for worker in workers.values()}
        if silent or len(codes) > 1 or "none" in codes:
            told = f"no answer from worker {silent}" if silent else "not all have the same code"
            raise UserError(f"{tpu.name}: {told}: run {_script('set_up')} {tpu.name}")
        tpu.kept.remember(workers[0].host)
        if model_dir:
            model_dir.free(tpu.kept.lost_chiefs(workers[0].host))
    tpu.start(command)


def _follow(args: argparse.Namespace, _) -> None:
    tpu = _slice(args)
    words = ["tail", "-n", str(args.lines), "-F", tpus.LOG]
    tpu.ssh_shown(f"following {tpu.name}", words, str(args.worker))


def _stop(args: argparse.Namespace, _) -> None:
    tpu = _slice(args)
    words = ["kill"] if args.kill else ["stop", str(args.wait)]
    tpu.ssh_shown(f"stopping the run on {tpu.name}", ["bash", "worker.sh", *words])


def _delete(args: argparse.Namespace, _) -> None:
    tpu = _slice(args)
    if not args.dry_run and not args.force:
        node = tpu.node()
        if node.state == "READY":
            workers = _check_idle(tpu, ", or give --force")
            silent = _silent(node.number, workers)
            if silent:
                raise UserError(
                    f"{tpu.name}: no answer by ssh from worker {silent}, on which a run may go on: "
                    "look again, or give --force"
                )
    tpu.delete()


def _list(args: argparse.Namespace, _) -> None:
    shell = gcloud.Shell(args.dry_run)
    commands = tpus.listing(args.project, args.zone)
    shell.check()
    for words in commands:
        shell.stream("listing", words)


def _supervise(args: argparse.Namespace, command: Sequence[str]) -> int:
    tpu, request = _slice(args), _request(args)
    tpus.check_files(command, request.type, f"--type={request.type}")
    model_dir = ModelDir.of(command, tpu.shell)
    archive = tpu.archive(args.commit)
    if args.dry_run:
        _show_supervision(tpu, request, archive, command, args.keep)
        return 0
    patience = args.poll, args.silence, args.tries, args.keep, args.adopt
    return Supervisor(tpu, request, archive, command, model_dir, *patience).run()


def _show_supervision(tpu, request, archive, command, keeps) -> None:
    """Shows the commands of a supervision; which of them come when depends on the states."""
    print("# Asked for, and asked again after FAILED, SUSPENDED and PREEMPTED:")
    tpu.create(request)
    print("# Looked at until it is ACTIVE, and from then on:")
    print(gcloud.shown(tpu.describe()))
    print("# Set up, and the run started:")
    tpu.set_up(archive)
    tpu.start(command)
    print("# Looked at from then on; after status 75 and the like, the run is started again:")
    print(gcloud.shown(tpu.look()))
    print("# Once it is lost, and at the end:" if not keeps else "# Once it is lost:")
    tpu.delete()


def _check_there(tpu: tpus.Slice) -> tpus.Node:
    """The slice, which is there.

    Raises:
      UserError: it is not there.
    """
    node = tpu.node()
    if node.state == "MISSING":
        queued = tpu.queue_state()[0]
        told = "there is no such slice" if queued == "MISSING" else f"its request is {queued}"
        see = f"see {_script('create')} and {_script('list')}"
        raise UserError(f"{tpu.name} in {tpu.zone}: {told}: {see}")
    if node.state != "READY":
        raise UserError(
            f"{tpu.name} is {node.state}: wait, or delete it and create it anew, as "
            f"{_script('supervise')} does by itself"
        )
    return node


def _silent(number: int, workers: Mapping[int, tpus.Worker]) -> str:
    """Those of `number` workers that do not answer, with commas between; or nothing."""
    return ", ".join(str(index) for index in range(number) if index not in workers)


def _check_idle(tpu: tpus.Slice, otherwise: str = "") -> dict[int, tpus.Worker]:
    """What the workers tell, where no run goes on.

    Raises:
      UserError: one does.
    """
    workers = tpu.workers()
    running = [str(index) for index, worker in workers.items() if worker.state == "running"]
    if running:
        raise UserError(
            f"a run goes on, on worker {', '.join(running)}: stop it first ({_script('stop')} "
            f"{tpu.name}){otherwise}"
        )
    return workers


if __name__ == "__main__":
    sys.exit(main())

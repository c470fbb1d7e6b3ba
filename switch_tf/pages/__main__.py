"""Generates the pages and pictures of docs/ that are measured or counted.

    python -m switch_tf.pages                 # all
    python -m switch_tf.pages models          # one
    python -m switch_tf.pages --check         # which of those made in seconds are out of date?

All are generated in one process, which starts with as many devices as any of them needs; a page
never looks at devices that it does not use.
"""

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from switch_tf import process, runtime, storage
from switch_tf.errors import UserError
from switch_tf.gin_files import nearest
from switch_tf.pages.registry import PAGES, Page


def main(argv: Sequence[str]) -> int:
    """Generates or checks pages.

    Returns:
      The exit status: 1 if a page is out of date.

    Raises:
      UserError: a page does not exist, it needs a run that is not there, or a path is remote.
    """
    args = _parser().parse_args(argv)
    pages = [_find(name) for name in args.name] or _all(args)
    for page in pages:
        if page.needs_run and not args.model_dir:
            raise UserError(f"{page.name} is made of a run: give its MODEL_DIR by --model_dir")
    devices = max((page.devices for page in pages), default=0)
    if devices:
        runtime.start(devices, shows_lowered=any(page.shows_lowered for page in pages))
    if args.check:
        return _check(pages, args.folder, args.model_dir)
    for page in pages:
        page.write(args.folder, args.model_dir)
        print(f"{page.name}: written to {args.folder}", flush=True)
    return 0


def _find(name: str) -> Page:
    if name not in PAGES:
        raise UserError(f"no page '{name}'{nearest(name, PAGES)}; there are {', '.join(PAGES)}")
    return PAGES[name]


def _all(args: argparse.Namespace) -> list[Page]:
    """All pages that can be generated or cheaply checked; prints which are left out."""
    if args.check:
        return [page for page in PAGES.values() if page.is_cheap]
    for page in PAGES.values():
        if page.needs_run and not args.model_dir:
            print(f"{page.name}: left out: it is made of a run, which --model_dir names")
    return [page for page in PAGES.values() if args.model_dir or not page.needs_run]


def _check(pages: Sequence[Page], folder: Path, model_dir: Path | None) -> int:
    status = 0
    for page in pages:
        stale = page.stale(folder, model_dir)
        mend = f"out of date: {', '.join(stale)}; python -m switch_tf.pages {page.name}"
        print(f"{page.name}: {mend if stale else 'up to date'}", flush=True)
        status |= bool(stale)
    return int(status)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m switch_tf.pages", description="Makes the pages and pictures of docs/."
    )
    parser.add_argument("name", nargs="*", metavar="NAME", help=f"{', '.join(PAGES)} (all of them)")
    parser.add_argument(
        "--folder",
        type=functools.partial(storage.local_path, "--folder"),
        default=Path("docs"),
        help="of the pages (docs)",
    )
    parser.add_argument(
        "--model_dir",
        type=functools.partial(storage.local_path, "--model_dir"),
        help="local, of a run whose model is sparse, for what is made of one",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="writes nothing: says which are out of date, without names of those made in seconds, "
        "and ends with status 1 if one is",
    )
    return parser


if __name__ == "__main__":
    try:
        with process.interruptible("python -m switch_tf.pages"):
            sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(f"error: {error}")

"""`switch-tf cache`: preprocesses tasks once, using SeqIO's Beam pipeline."""

import argparse
import functools
import logging
import os
import time
from collections.abc import Sequence

from switch_tf import config, runtime, storage
from switch_tf.commands.flags import Parser, add_gin_flags, split_gin_args
from switch_tf.errors import UserError
from switch_tf.stages import importing


def main(argv: Sequence[str]) -> None:
    """Runs `switch-tf cache`.

    `--min_shards` sets how finely a split is sharded: more files let more workers write in
    parallel, fewer keep a small cache quick to open. Keep the default of 64 for a large corpus; 8
    is plenty for one that is read on a single machine.

    Raises:
      UserError: flags or gin are invalid, a task does not exist, or its data cannot be read or the
        output folder cannot be written.
    """
    bindings, rest = split_gin_args(argv)
    args = _parser().parse_args(rest)
    if args.min_shards < 1:
        raise UserError(f"--min_shards={args.min_shards}: give a number >= 1")
    config.precheck(args.gin_file, bindings)
    folder = args.output_cache_dir
    if not storage.is_remote(folder):
        folder = os.path.abspath(os.path.expanduser(folder))
    if set(folder) & set("*?["):
        raise UserError(
            f"--output_cache_dir={folder}: Beam takes *, ? and [ for patterns: give a folder "
            "without them"
        )
    with importing("starting TensorFlow"):
        runtime.start()
    if not storage.is_remote(folder):
        _make(folder)
    settings = (tuple(args.gin_file), tuple(bindings), tuple(args.module_import))
    setup = functools.partial(_set_up, *settings)
    setup()
    names = _tasks(args.tasks.split(","))
    _cache(names, folder, setup, args)
    for name in names:
        print(f"cached {name} in {folder}")
    print(f"to train on it: --gin.CACHE_DIR=\"'{folder}'\" --gin.USE_CACHED_TASKS=True")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="switch-tf cache",
        description="Preprocesses tasks once, up to their seqio.CacheDatasetPlaceholder, and "
        "writes the result to a folder that training reads. Runs SeqIO's own Beam pipeline, with "
        "its flags.",
        epilog="example:\n  switch-tf cache --tasks=pydocs_span_corruption "
        "--output_cache_dir=cache --min_shards=8",
    )
    parser.add_argument(
        "--tasks",
        required=True,
        help="tasks or mixtures, separated by commas; a mixture stands for all its tasks",
    )
    parser.add_argument(
        "--output_cache_dir", required=True, metavar="DIR", help="local or gs:// folder"
    )
    parser.add_argument(
        "--module_import",
        action="append",
        default=[],
        metavar="MODULE",
        help="a module that registers your own tasks; may be repeated",
    )
    parser.add_argument(
        "--pipeline_options",
        default="--runner=DirectRunner",
        metavar="OPTIONS",
        help="options of Beam, separated by commas, such as --runner=DataflowRunner,--project=P,"
        "--region=R,--temp_location=gs://B/tmp,--setup_file=./setup.py (default: "
        "--runner=DirectRunner, on this machine)",
    )
    parser.add_argument(
        "--min_shards",
        type=int,
        default=64,
        metavar="N",
        help="minimum number of files per split (64)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replaces existing caches of these tasks"
    )
    add_gin_flags(parser)
    return parser


def _make(folder: str) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--output_cache_dir={folder}: cannot create the folder: {error.strerror}"
        ) from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"--output_cache_dir={folder}: no permission to write to it")


@functools.cache
def _set_up(gin_files: tuple[str, ...], bindings: tuple[str, ...], modules: tuple[str, ...]):
    """Loads gin and registers the tasks, once per process: Beam's workers may be on other hosts."""
    from switch_tf.data import registry

    config.load(gin_files, bindings)
    registry.load_project_modules()
    for module in modules:
        config.import_module(module, "--module_import")


def _tasks(names: Sequence[str]) -> list[str]:
    """Resolves names to tasks, expanding mixtures, after checking and reading their data.

    Raises:
      UserError: a name is unknown, a task cannot be cached, or its data is missing or malformed.
    """
    import seqio

    from switch_tf.data import registry
    from switch_tf.data.availability import ABSENT
    from switch_tf.data.reading import check_records

    found = {}
    for name in names:
        provider = registry.find(name)
        registry.prepare(provider)
        tasks = [task for task in seqio.get_subtasks(provider) if task.splits != ABSENT]
        if not tasks:
            raise UserError(
                f"'{name}' has no data: set DATA_DIR, or a pattern that matches its files"
            )
        found |= {task.name: task for task in tasks}
        for task in tasks:
            # SeqIO lists the files of every split, but only after it has deleted the old cache.
            for split in task.splits:
                task.source.list_shards(split)
                check_records([task], split)
    for task in found.values():
        if not task.supports_caching:
            raise UserError(
                f"task '{task.name}' cannot be cached: add seqio.CacheDatasetPlaceholder() after "
                "the last of its preprocessors that need not run again in each epoch"
            )
    return list(found)


def _cache(names: list[str], folder: str, setup, args: argparse.Namespace) -> None:
    """Caches tasks, each with what it was made with."""
    import seqio

    from switch_tf.data import provenance

    # Before, because files may change meanwhile.
    made_with = {name: provenance.facts(seqio.TaskRegistry.get(name)) for name in names}
    _run(names, folder, setup, args)
    for name in names:
        folder_of_task = os.path.join(folder, seqio.get_task_dir_from_name(name))
        provenance.write(folder_of_task, made_with[name])


def _find_culprit(names: list[str]) -> None:
    """Reads tasks once more, outside of Beam, for at most a minute.

    Raises:
      UserError: a record cannot be read, or the task's preprocessors refuse it.
    """
    import seqio

    from switch_tf.data import records
    from switch_tf.data.reading import SEARCH_SECONDS, TaskSplit, user_errors

    until = time.monotonic() + SEARCH_SECONDS
    for task in map(seqio.TaskRegistry.get, names):
        for split in task.splits:
            with user_errors(TaskSplit(task.name, split)):
                for _ in records.examples_of(task, split):
                    if time.monotonic() > until:
                        return


def _run(names: list[str], folder: str, setup, args: argparse.Namespace) -> None:
    import apache_beam as beam
    import seqio
    from seqio import beam_utils
    from seqio.scripts import cache_tasks_main

    from switch_tf.data.reading import told_by_user_error

    seqio.add_global_cache_dirs([folder])
    there = [name for name in names if seqio.TaskRegistry.get(name).cache_dir]
    if there and not args.overwrite:
        raise UserError(
            f"task '{there[0]}' is already cached in {seqio.TaskRegistry.get(there[0]).cache_dir}: "
            "add --overwrite to cache it again, or leave it out of --tasks"
        )
    cache_tasks_main.FLAGS(["cache", f"--min_shards={args.min_shards}"])
    # SeqIO's pipeline only imports modules on its workers; ours also need gin's values there.
    transform = beam_utils.PreprocessTask
    beam_utils.PreprocessTask = functools.partial(transform, setup_fn=setup)
    # Beam logs the traceback of what it raises, too, be it a signal's Interruption.
    logging.getLogger("apache_beam.runners.common").setLevel(logging.CRITICAL)
    options = beam.options.pipeline_options.PipelineOptions(args.pipeline_options.split(","))
    try:
        with beam.Pipeline(options=options) as pipeline:
            cache_tasks_main.run_pipeline(pipeline, names, folder, overwrite=args.overwrite)
    except Exception as error:
        # Beam wraps an error raised by a source in many lines of its own.
        if told := told_by_user_error(str(error)):
            raise UserError(told.strip("'\"")) from error
        # It does not say which record was at fault.
        _find_culprit(names)
        raise
    finally:
        beam_utils.PreprocessTask = transform

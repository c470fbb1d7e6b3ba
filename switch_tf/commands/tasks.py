"""`switch-tf tasks`: lists tasks and mixtures, shows one, or trains a vocabulary on its text."""

import argparse
import inspect
import itertools
from collections.abc import Iterator, Sequence

from switch_tf import config, rules, runtime
from switch_tf.commands.flags import Parser, add_gin_flags, split_gin_args
from switch_tf.errors import UserError
from switch_tf.stages import importing, telling
from switch_tf.tasks.vocabulary import vocabulary_path

_DEFAULT_LENGTHS = {"inputs": 128, "targets": 36}
_STATISTICS_EXAMPLES = 1_000
_TEXT_CHARACTERS = 500
# T5's vocabulary sizes are its multiples, so that devices can share the embedding.
_VOCAB_MULTIPLE = 128
# Of a vocabulary that is trained; SentencePiece's own.
_DEFAULTS = {"character_coverage": 0.9995, "normalization": "nmt_nfkc"}


def main(argv: Sequence[str]) -> None:
    """Runs `switch-tf tasks`.

    Raises:
      UserError: flags or gin are invalid, a task or split does not exist, or data cannot be read.
    """
    bindings, rest = split_gin_args(argv)
    args = _parser().parse_args(rest)
    _check(args)
    given = config.precheck(args.gin_file, bindings)
    if args.train_vocabulary is not None:
        vocabulary_path.check_new(given.get(vocabulary_path.SETTING))
    with importing("starting TensorFlow"):
        runtime.start()
        config.load(args.gin_file, bindings)
        from switch_tf.data import registry

        registry.load_project_modules()
    for module in args.module:
        config.import_module(module, "--module")
    if args.train_vocabulary is not None:
        _train_vocabulary(args)
    elif args.statistics is not None:
        _show_statistics(args)
    elif args.name:
        _show(args)
    else:
        _list()


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="switch-tf tasks",
        description="Lists tasks and mixtures, what each reads, and whether its data are "
        "available. With NAME, shows examples of one: as the source has them, as token ids, and "
        "as text decoded from these.",
        epilog="examples:\n  switch-tf tasks pydocs_copa --split=validation --num_examples=2\n"
        "  switch-tf tasks pydocs_finetune --statistics",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="task or mixture to show")
    parser.add_argument(
        "--num_examples", type=int, default=3, metavar="N", help="number of examples (3)"
    )
    parser.add_argument("--split", default="train", help="split to show (train)")
    parser.add_argument(
        "--module",
        action="append",
        default=[],
        help="a module that registers your own tasks, in addition to MIXTURE_OR_TASK_MODULE; may "
        "be repeated",
    )
    actions = parser.add_mutually_exclusive_group()
    actions.add_argument(
        "--statistics",
        type=int,
        nargs="?",
        const=_STATISTICS_EXAMPLES,
        metavar="N",
        help="shows the token lengths of the first N examples (1,000) of NAME, how much "
        "TASK_FEATURE_LENGTHS cuts off, and the share of padding, packed and unpacked",
    )
    actions.add_argument(
        "--train_vocabulary",
        type=int,
        metavar="PIECES",
        help="trains a SentencePiece vocabulary on the text of NAME, and writes it to "
        "VOCABULARY_PATH",
    )
    parser.add_argument(
        "--character_coverage",
        type=float,
        default=_DEFAULTS["character_coverage"],
        metavar="SHARE",
        help="with --train_vocabulary: share of the text's characters that have a piece, from "
        "0.98 (0.9995); the rarest ones have none and are read as unknown",
    )
    parser.add_argument(
        "--normalization",
        choices=("nmt_nfkc", "identity"),
        default=_DEFAULTS["normalization"],
        help="with --train_vocabulary: nmt_nfkc, as in T5, unifies forms of characters and makes "
        "line breaks and indentation single blanks (default); identity keeps the text as it is, "
        "which suits program code",
    )
    add_gin_flags(parser)
    return parser


def _check(args: argparse.Namespace) -> None:
    for flag in ("num_examples", "statistics"):
        count = getattr(args, flag)
        if count is not None and count < 1:
            raise UserError(f"--{flag}={count}: give a number >= 1")
    for flag in ("statistics", "train_vocabulary"):
        if getattr(args, flag) is not None and not args.name:
            raise UserError(f"--{flag} needs a task or mixture: switch-tf tasks NAME --{flag}")
    if not 0.98 <= args.character_coverage <= 1:
        raise UserError(
            f"--character_coverage={args.character_coverage}: give a share from 0.98 to 1"
        )
    if args.train_vocabulary is None:
        for flag in ("character_coverage", "normalization"):
            if getattr(args, flag) != _DEFAULTS[flag]:
                raise UserError(f"--{flag} needs --train_vocabulary")
    for module in args.module:
        config.check_module_name(module, "--module")


def _list() -> None:
    from switch_tf.data import registry
    from switch_tf.metrics.tables import table

    heading = ("name", "kind", "source", "splits", "data available", "metrics")
    # Last the many parts of a mixture, such as mc4.en.
    names = sorted(registry.names(), key=lambda name: "." in name)
    for line in table([heading, *map(_describe, names)]):
        print(line)


def _describe(name: str) -> tuple[str, ...]:
    """The row for one task or mixture."""
    import seqio

    from switch_tf.data import availability, registry

    provider = registry.find(name)
    tasks = seqio.get_subtasks(provider)
    if isinstance(provider, seqio.Mixture):
        # A run leaves out languages that have no shards.
        needed = [task for task in tasks if task.splits != availability.ABSENT] or tasks
        states = [availability.state(task.source) for task in needed]
        lacking = sum(state != "yes" for state in states)
        data = f"no: missing for {lacking} of its tasks" if lacking else "yes"
        kind, source = f"mixture of {len(tasks)}", "those of its tasks"
    else:
        kind, source = "task", availability.describe(provider.source)
        data = availability.state(provider.source)
    metrics = sorted({name for task in tasks for name in _metrics(task)})
    there = {str(split) for split in provider.splits} - {*availability.ABSENT}
    splits = ", ".join(sorted(there, key=_split_order))
    return name, kind, source, splits or "none", data, ", ".join(metrics) or "none"


def _metrics(task) -> Iterator[str]:
    """The names of a task's metrics, of SeqIO's both kinds."""
    yield from map(_metric_name, task.metric_fns)
    # `metric_objs` itself has those functions, too, in objects.
    for metric in task._metric_objs_constructor_args:
        of_class = metric if isinstance(metric, type) else type(metric)
        methods = filter(inspect.isfunction, vars(of_class).values())
        # The class that SeqIO makes of a function has it in its methods alone.
        closures = (inspect.getclosurevars(method).nonlocals for method in methods)
        function = next((names["metric_fn"] for names in closures if "metric_fn" in names), None)
        yield of_class.__name__ if function is None else _metric_name(function)


def _metric_name(function) -> str:
    # A functools.partial has no name. A closure is named after the function that makes it.
    if not hasattr(function, "__qualname__"):
        return _metric_name(function.func) if hasattr(function, "func") else repr(function)
    return function.__qualname__.split(".<locals>")[0]


def _split_order(split: str) -> tuple[int, str]:
    known = ("train", "validation", "test")
    return (known.index(split) if split in known else len(known), split)


def _train_vocabulary(args: argparse.Namespace) -> None:
    from switch_tf.data import registry
    from switch_tf.tasks.vocabulary import t5, training

    path, lacking = training.train(
        registry.find(args.name),
        args.train_vocabulary,
        character_coverage=args.character_coverage,
        normalization=args.normalization,
    )
    size = args.train_vocabulary + t5.EXTRA_IDS
    print(
        f"wrote {path}: {args.train_vocabulary:,} pieces; a model needs VOCAB_SIZE >= {size:,}, "
        f"such as {-(-size // _VOCAB_MULTIPLE) * _VOCAB_MULTIPLE}"
    )
    print(lacking.line(args.character_coverage))


def _lengths() -> dict[str, int]:
    given = config.macro("TASK_FEATURE_LENGTHS", None, annotation=rules.Lengths)
    return _DEFAULT_LENGTHS if given is None else given


def _prepared(args: argparse.Namespace):
    """The requested task or mixture, after checking its data."""
    import seqio

    from switch_tf.data import features, registry
    from switch_tf.data.reading import check_records

    provider = registry.find(args.name)
    features.check_split(provider, args.split, "--split")
    with telling(f"reading {args.name}", at_once=False):
        registry.prepare(provider)
        tasks = [task for task in seqio.get_subtasks(provider) if args.split in task.splits]
        if isinstance(provider, seqio.Mixture):
            registry.check_rates(provider, tasks)
        check_records(tasks, args.split)
    return provider


def _show_statistics(args: argparse.Namespace) -> None:
    from switch_tf.data.autograph import without_autograph
    from switch_tf.data.reading import TaskSplit, user_errors
    from switch_tf.metrics.tables import table
    from switch_tf.tasks.parts import statistics

    lengths = _lengths()
    provider = _prepared(args)
    with user_errors(TaskSplit(args.name, args.split)):
        found = without_autograph(
            lambda: statistics.untrimmed(provider, args.split, lengths, args.statistics)
        )
    count = len(next(iter(found.values())))
    print(f"{args.name} {args.split}: the first {count:,} examples, in tokens before trimming")
    if lengths is _DEFAULT_LENGTHS:
        shown = ", ".join(f"{name} {length}" for name, length in lengths.items())
        print(f"TASK_FEATURE_LENGTHS is not set; taken as {shown}")
    for rows in (statistics.length_rows(found, lengths), statistics.padding_rows(found, lengths)):
        print()
        for line in table(rows):
            print(line)


def _show(args: argparse.Namespace) -> None:
    from switch_tf.data.reading import TaskSplit, user_errors

    provider = _prepared(args)
    with user_errors(TaskSplit(args.name, args.split)):
        # Made first, so that what is wrong with the task is not told after its sources.
        prepared = _prepared_examples(provider, args.split)
        _show_sources(provider, args.split, args.num_examples)
        _show_prepared(provider, args.split, prepared.take(args.num_examples))


def _show_sources(provider, split: str, count: int) -> None:
    # For a mixture, the first examples of its tasks are interleaved.
    import seqio

    rounds = itertools.zip_longest(
        *(
            _raw(task.source, split, count)
            for task in seqio.get_subtasks(provider)
            if split in task.splits
        )
    )
    examples = [e for examples in rounds for e in examples if e is not None]
    for number, example in enumerate(examples[:count], 1):
        print(f"--- {provider.name} {split}: raw {number}")
        # Sources of plain lines yield bytes, not dicts.
        fields = example if isinstance(example, dict) else {"line": example}
        for key, value in fields.items():
            print(f"{key}: {_shorten(value)}")


def _raw(source, split: str, count: int) -> Iterator[dict]:
    dataset = source.get_dataset(split, shuffle=False)
    return itertools.islice(dataset.as_numpy_iterator(), count)


def _prepared_examples(provider, split: str):
    """The dataset of what the preprocessors give, whose features are checked."""
    from switch_tf.data.autograph import without_autograph
    from switch_tf.data.lost import check_features

    # A fixed seed shows the same examples each time.
    order = {"shuffle": False, "seed": 0}
    dataset = without_autograph(lambda: provider.get_dataset(_lengths(), split, **order))
    check_features(provider.name, provider.output_features, dataset.element_spec)
    return dataset


def _show_prepared(provider, split: str, dataset) -> None:
    from switch_tf.data.lost import check_sentinels, is_beyond_sentinels

    for number, example in enumerate(dataset.as_numpy_iterator(), 1):
        print(f"--- {provider.name} {split}: tokenised {number}")
        if "inputs" in example:
            check_sentinels(provider.name, is_beyond_sentinels(example, provider.output_features))
        for key, feature in provider.output_features.items():
            ids = example[key].tolist()
            print(f"{key} ids ({len(ids)}): {' '.join(map(str, ids))}")
            print(f"{key} decoded: {feature.vocabulary.decode(ids)}")


def _shorten(value) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    if len(text) <= _TEXT_CHARACTERS:
        return text
    return f"{text[:_TEXT_CHARACTERS]} ... ({len(text)} characters)"

"""`switch-tf tasks`: lists tasks and mixtures, shows examples of one, trains a vocabulary."""

import argparse
import itertools
from collections.abc import Sequence

from switch_tf import config, runtime
from switch_tf.commands.flags import Parser, add_gin_flags, split_gin_args
from switch_tf.errors import UserError

_DEFAULT_LENGTHS = {"inputs": 128, "targets": 36}
_TEXT_CHARACTERS = 500


def main(argv: Sequence[str]) -> None:
    """Runs `switch-tf tasks`.

    Raises:
      UserError: bad flags or gin, no such task or split, data that cannot be read.
    """
    bindings, rest = split_gin_args(argv)
    args = _parser().parse_args(rest)
    if args.num_examples < 1:
        raise UserError(f"--num_examples={args.num_examples}: give a number >= 1")
    config.precheck(args.gin_file, bindings)
    runtime.start()
    config.load(args.gin_file, bindings)
    from switch_tf.data import registry

    registry.load_project_modules()
    for module in args.module:
        config.import_module(module, "--module")
    if args.train_vocabulary is not None:
        _train_vocabulary(args)
    elif args.name:
        _show(args)
    else:
        for name in registry.names():
            print(describe(name))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="switch-tf tasks",
        description="Lists tasks and mixtures. With NAME, shows examples of one: as the source has "
        "them, as token ids, and as text decoded from these.",
        epilog="example:\n  switch-tf tasks pydocs_copa --split=validation --num_examples=2",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="task or mixture to show")
    parser.add_argument("--num_examples", type=int, default=3, metavar="N", help="how many (3)")
    parser.add_argument("--split", default="train", help="which split (train)")
    parser.add_argument(
        "--module",
        action="append",
        default=[],
        help="a module that registers tasks of yours, besides MIXTURE_OR_TASK_MODULE; may be "
        "repeated",
    )
    parser.add_argument(
        "--train_vocabulary",
        type=int,
        metavar="PIECES",
        help="trains a SentencePiece vocabulary on the files of local_text.train, and writes it to "
        "local_text.vocabulary",
    )
    add_gin_flags(parser)
    return parser


def describe(name: str) -> str:
    """One line on a task or mixture: name, kind, splits, metrics."""
    import seqio

    from switch_tf.data import registry

    provider = registry.find(name)
    is_mixture = isinstance(provider, seqio.Mixture)
    tasks = provider.tasks if is_mixture else [provider]
    metrics = sorted({_function_name(fn) for task in tasks for fn in task.metric_fns})
    kind = f"mixture of {len(tasks)} tasks" if is_mixture else "task"
    splits = ", ".join(str(split) for split in sorted(provider.splits))
    return f"{name}  {kind}  splits: {splits}  metrics: {', '.join(metrics) or 'none'}"


def _function_name(function) -> str:
    # A functools.partial has no name of its own.
    return getattr(function, "__name__", None) or _function_name(function.func)


def _train_vocabulary(args: argparse.Namespace) -> None:
    from tasks import local_text

    if args.name not in (None, local_text.TASK):
        raise UserError(f"--train_vocabulary is for {local_text.TASK}, not for '{args.name}'")
    path = local_text.train_vocabulary(args.train_vocabulary)
    print(f"wrote {path}: {args.train_vocabulary} pieces")


def _show(args: argparse.Namespace) -> None:
    from switch_tf.data import features, registry

    provider = registry.find(args.name)
    if args.split not in provider.splits:
        splits = ", ".join(str(split) for split in provider.splits)
        raise UserError(f"'{args.name}' has no split '{args.split}'; it has {splits}")
    registry.prepare(provider)
    with features.user_errors(f"'{args.name}', split '{args.split}'"):
        _show_sources(provider, args.split, args.num_examples)
        _show_prepared(provider, args.split, args.num_examples)


def _show_sources(provider, split: str, count: int) -> None:
    # Of a mixture, the first examples of its tasks in turn.
    tasks = getattr(provider, "tasks", [provider])
    sources = [
        itertools.islice(task.source.get_dataset(split, shuffle=False).as_numpy_iterator(), count)
        for task in tasks
    ]
    rounds = itertools.zip_longest(*sources)
    examples = [e for examples in rounds for e in examples if e is not None]
    for number, example in enumerate(examples[:count], 1):
        print(f"--- {provider.name} {split}: raw {number}")
        for key, value in example.items():
            print(f"{key}: {_shorten(value)}")


def _show_prepared(provider, split: str, count: int) -> None:
    from switch_tf.data import features

    lengths = config.macro("TASK_FEATURE_LENGTHS", _DEFAULT_LENGTHS)
    features.check_lengths(lengths)
    # A fixed seed: the same examples each time.
    dataset = provider.get_dataset(lengths, split=split, shuffle=False, seed=0)
    for number, example in enumerate(dataset.take(count).as_numpy_iterator(), 1):
        print(f"--- {provider.name} {split}: tokenised {number}")
        for key, feature in provider.output_features.items():
            if key in example:
                ids = example[key].tolist()
                print(f"{key} ids ({len(ids)}): {' '.join(map(str, ids))}")
                print(f"{key} decoded: {feature.vocabulary.decode(ids)}")


def _shorten(value) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    if len(text) <= _TEXT_CHARACTERS:
        return text
    return f"{text[:_TEXT_CHARACTERS]} ... ({len(text)} characters)"

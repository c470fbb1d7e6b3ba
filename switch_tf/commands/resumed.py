"""What a resumed run changes of the settings that it had, for it to be told."""

from collections.abc import Iterator, Sequence

from switch_tf import configurables, gin_files, rules, storage
from switch_tf.checkpoints.model_dir import CONFIG, find_file
from switch_tf.commands.given import Given, difference, name_of, of_project, plain
from switch_tf.gin_files import Key, Settings


def changes(files: Sequence[str], bindings: Sequence[str], path: str) -> list[str]:
    """Lines on each setting in which a resumed run differs from what its MODEL_DIR says.

    What must not change, such as the sizes of the model, is refused elsewhere.

    Args:
      files, bindings: see `config.precheck`.
      path: the MODEL_DIR. TensorFlow must be started if it is remote.
    """
    file = find_file(path, CONFIG)
    if file is None:
        return []
    saved = gin_files.read_text(storage.read_text(file), file)
    given = Given(files, bindings)
    # Of these, MODEL_DIR may have moved, and a run that resumes is not started again.
    of_checkpoints = dict(configurables.marked(rules.Checkpoint))
    keys = {name_of(key): key for key in saved.bindings}
    lines: list[str] = []
    for name in keys:
        checkpoint = of_checkpoints.get(name)
        if checkpoint is not None and checkpoint.use == "start" and name in given.keys:
            lines += _not_used(saved, keys[name], given.settings, given.keys[name])
        if checkpoint is not None:
            continue
        before = saved.origin(keys[name])[1]
        if name not in given.keys:
            lines += _from_default(saved, keys[name])
        elif plain(saved, keys[name]) != plain(given.settings, given.keys[name]):
            called, now = given.settings.origin(given.keys[name])
            lines += filter(None, [difference(called, now, before)])
    # Several parameters may have their value from one macro.
    lines = sorted(set(lines))
    return [f"settings of this run that are new since {file}:", *lines] if lines else []


def _not_used(saved: Settings, key: Key, given: Settings, now: Key) -> Iterator[str]:
    """Yields a line on a checkpoint to start from that is not the one that the run started from."""
    if plain(given, now) not in (None, plain(saved, key)):
        called, (value, where) = given.origin(now)
        before = gin_files.text(saved.origin(key)[1][0])
        yield (
            f"  {called}={gin_files.text(value)} ({where}) is not used: the run resumes, and began "
            f"with {before}; to begin with this one, give another MODEL_DIR"
        )


def _from_default(saved: Settings, key: Key) -> Iterator[str]:
    """Yields a line on a setting that is left out now, if its default is another value."""
    owner, before = of_project(key), plain(saved, key)
    default = configurables.defaults(owner).get(key[2], before) if owner else before
    if default != before:
        _, (value, where) = saved.origin(key)
        told = f"{default!r} (its default), not {gin_files.text(value)} ({where})"
        yield f"  {name_of(key)}={told}"

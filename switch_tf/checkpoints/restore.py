"""Restores a model, and optionally its optimizer, from a checkpoint onto any mesh."""

import dataclasses
import os
import re
from collections.abc import Callable, Collection, Mapping, Set

import tensorflow as tf

from switch_tf import storage
from switch_tf.checkpoints import contents, tensor_files
from switch_tf.checkpoints.model_dir import ModelDir, find, state_prefix
from switch_tf.errors import UserError
from switch_tf.rules import VariablePatterns, matches

# The errors that reading a damaged file raises; IndexError if it is truncated.
DAMAGED = (tf.errors.OpError, ValueError, OSError, IndexError)

# Temporary failures, such as an unresponsive disk or too little memory: the file may be whole.
PASSING = (
    tf.errors.ResourceExhaustedError,
    tf.errors.UnavailableError,
    tf.errors.DeadlineExceededError,
    tf.errors.PermissionDeniedError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    PermissionError,
    TimeoutError,
)

# Number of weights, or of layers, that a line names.
_SHOWN = 3


def restore_model(path: str, model) -> None:
    """Restores all of a model's weights from the checkpoint folder `path`.

    Raises:
      UserError: the checkpoint is damaged or belongs to another model.
    """
    _read(path, lambda: contents.check_model(path, model))
    _read(path, lambda: tensor_files.read(state_prefix(path), contents.weights(model)))


@dataclasses.dataclass(frozen=True)
class RestoreSummary:
    """What was restored from an initial checkpoint.

    Attributes:
      path: the checkpoint's folder.
      variables: names of the restored weights.
      fresh: names of the weights missing from the checkpoint, which keep their initial values.
      skipped: names of the checkpoint's weights that the model does not have.
      slots: number of restored optimizer slots.
      optimizer_step: the step from which the optimizer continues; None if its slots are fresh and
        it starts from 0.
    """

    path: str
    variables: tuple[str, ...]
    fresh: tuple[str, ...]
    skipped: tuple[str, ...]
    slots: int
    optimizer_step: int | None = None

    def __str__(self):
        def names(listed):
            shown = ", ".join([*listed[:_SHOWN], *(["..."] if len(listed) > _SHOWN else [])])
            return f"{len(listed)}" + (f" ({shown})" if listed else "")

        return (
            f"initial checkpoint {self.path}: {len(self.variables)} variables restored, "
            f"{names(self.fresh)} fresh, {names(self.skipped)} skipped; {self.slots} optimizer "
            + ("slots fresh" if self.optimizer_step is None else "slots restored, and their step")
        )


def restore_initial(
    path: str,
    model,
    optimizer,
    restore_optimizer: bool = False,
    fresh: VariablePatterns = (),
    skipped: VariablePatterns = (),
) -> RestoreSummary:
    """Restores a model's weights, and optionally its optimizer, from another run.

    Args:
      path: a MODEL_DIR, whose newest checkpoint is used, or a checkpoint folder.
      model: the built model.
      optimizer: the built optimizer.
      restore_optimizer: whether to restore the optimizer's slots and step as well. True continues
        pre-training where the other run left off; leave it False when the task or the schedule
        changes.
      fresh: patterns of the weights that may be missing from the checkpoint.
      skipped: patterns of the checkpoint's weights that the model may lack.

    Raises:
      UserError: there is no checkpoint, it is damaged, a weight or a slot differs in shape, or a
        weight that no pattern allows would be fresh or skipped.
    """
    path = find(path, "INITIAL_CHECKPOINT_PATH")
    ours, saved = contents.weights(model), _read(path, lambda: contents.saved_weights(path))
    for name, variable in ours.items():
        if saved.get(name, tuple(variable.shape)) != tuple(variable.shape):
            raise UserError(
                f"INITIAL_CHECKPOINT_PATH '{path}': {name} has shape {saved[name]}, but the "
                f"model's is {tuple(variable.shape)}: use the gin/models file that it was trained "
                "with"
            )
    common = {name: variable for name, variable in ours.items() if name in saved}
    if not common:
        raise UserError(f"INITIAL_CHECKPOINT_PATH '{path}' shares no weight with the model")
    _check_left_out(path, set(ours), set(saved), fresh, skipped)
    optimizer_step, slots = None, {}
    if restore_optimizer:
        mend = "RESTORE_OPTIMIZER=False"
        _read(path, lambda: contents.check_optimizer(path, optimizer, mend))
        optimizer_step = _read(path, lambda: contents.saved_optimizer_step(path))
        slots = contents.slots(optimizer)
    _read(path, lambda: tensor_files.read(state_prefix(path), common | slots))
    return RestoreSummary(
        path,
        tuple(common),
        tuple(name for name in ours if name not in saved),
        tuple(sorted(set(saved) - set(ours))),
        len(optimizer.slots),
        optimizer_step,
    )


def _check_left_out(
    path: str,
    ours: Set[str],
    saved: Set[str],
    fresh: VariablePatterns,
    skipped: VariablePatterns,
) -> None:
    """Checks that only weights that the patterns allow are in one of model and checkpoint alone."""
    sides = (
        ("lacks {} of the model (they would start fresh)", "FRESH", ours, saved, fresh),
        ("has {} that the model lacks (they would be skipped)", "SKIPPED", saved, ours, skipped),
    )
    told, flags = [], []
    for text, name, names, others, patterns in sides:
        alone = _layers([n for n in names - others if not matches(n, patterns)], others)
        if not alone:
            continue
        layers = sorted(set(alone.values()))
        more = f" and {len(layers) - _SHOWN} more" if len(layers) > _SHOWN else ""
        told.append(text.format(", ".join(layers[:_SHOWN]) + more))
        # The shell takes half of the backslashes, and gin's quotes half of the rest.
        shown = str([*patterns, *_patterns(alone, others)]).replace("\\", "\\\\")
        flags.append(f'--gin.INITIAL_CHECKPOINT_{name}="{shown}"')
    if told:
        raise UserError(
            f"INITIAL_CHECKPOINT_PATH '{path}' {' and '.join(told)}: use the gin/models file that "
            f"it was trained with, or allow it with regular expressions, {' '.join(flags)}"
        )


def _layers(names: Collection[str], others: Collection[str]) -> dict[str, str]:
    """Weight -> the largest layer around it, as `encoder/layer_1/`, with none of the others.

    A weight that no such layer holds is given itself.
    """

    def layers(name):
        return [name[: slash.end()] for slash in re.finditer("/", name)]

    shared = {layer for name in others for layer in layers(name)}
    return {name: next((la for la in layers(name) if la not in shared), name) for name in names}


def _patterns(alone: Mapping[str, str], others: Collection[str]) -> list[str]:
    """Few and short patterns that all of the weights match and none of the others.

    Args:
      alone: the result of `_layers`.
      others: the weights that must not match.
    """
    left, found = dict(sorted(alone.items())), []
    while left:
        # A dot stands for any character that means something to regular expressions or the shell.
        layer = re.sub(r"[^\w/-]", ".", next(iter(left.values())))
        ends = [layer[at.start() :] for at in re.finditer(r"(?<![^/])(?=.)|/(?=.)", layer)]
        whole = f"^{layer}" + "$" * (not layer.endswith("/"))
        fit = [end for end in ends if not any(matches(name, [end]) for name in others)]
        covers = {p: sum(matches(name, [p]) for name in left) for p in [*fit, whole]}
        best = max(covers, key=lambda pattern: (covers[pattern], -len(pattern)))
        found.append(best)
        left = {name: layer for name, layer in left.items() if not matches(name, [best])}
    return found


def _read(path: str, reader: Callable):
    try:
        return reader()
    except DAMAGED as error:
        unread = f"checkpoint '{path}' cannot be read"
        if isinstance(error, PASSING) or storage.is_passing(error, path):
            raise storage.failure(unread, error) from error
        why = storage.first_line(error)
        run = ModelDir(os.path.dirname(path.rstrip("/")))
        others = [p for p in map(run.checkpoint, run.steps()) if p != path.rstrip("/")]
        other = f"use another, such as {others[-1]}, or " if others else ""
        raise UserError(f"checkpoint '{path}' is damaged ({why}): {other}copy it again") from error

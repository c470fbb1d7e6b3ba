"""The named contents of a checkpoint: the model's weights, the optimizer's slots and step."""

import tensorflow as tf

from switch_tf import mesh as mesh_lib
from switch_tf.checkpoints import model_dir, tensor_files
from switch_tf.errors import UserError

# The optimizer's own step, on which its learning rate schedule depends.
OPTIMIZER_STEP = "optimizer/step"


def weights(model) -> dict[str, tf.Variable]:
    """Name in a checkpoint -> weight, for all of a model's weights."""
    return {variable.path: variable.value for variable in model.trainable_variables}


def slots(optimizer) -> dict[str, tf.Variable]:
    """Name in a checkpoint -> slot, for all of an optimizer's slots."""
    return {f"optimizer/{name}": slot for name, slot in optimizer.slots.items()}


def saved_weights(path: str) -> dict[str, tuple[int, ...]]:
    """Name -> shape, for the model's weights in the checkpoint folder `path`."""
    every = tensor_files.reader(model_dir.state_prefix(path)).get_variable_to_shape_map().items()
    return {name: tuple(shape) for name, shape in every if not name.startswith("optimizer/")}


def saved_optimizer_step(path: str) -> int:
    """The optimizer's step in the checkpoint folder `path`."""
    with mesh_lib.host():
        return int(tensor_files.reader(model_dir.state_prefix(path)).get_tensor(OPTIMIZER_STEP))


def check_model(path: str, model) -> None:
    """Checks that the checkpoint `path` holds the weights of this model.

    Raises:
      UserError: a weight differs; the message names the first one, both shapes and the fix.
    """
    saved, ours = saved_weights(path), weights(model)
    for name, variable in ours.items():
        shape = tuple(variable.shape)
        if name not in saved:
            raise UserError(
                f"checkpoint '{path}' has no {name}: it belongs to another model; use the "
                "gin/models file that it was trained with, or another MODEL_DIR"
            )
        if saved[name] != shape:
            raise UserError(
                f"checkpoint '{path}': {name} has shape {saved[name]}, but the model's is {shape}: "
                "use the gin/models file that it was trained with, or another MODEL_DIR"
            )
    extra = sorted(set(saved) - set(ours))
    if extra:
        raise UserError(
            f"checkpoint '{path}' has {extra[0]}, which the model lacks: use the gin/models file "
            "that it was trained with, or another MODEL_DIR"
        )


def check_optimizer(path: str, optimizer, mend: str, all_saved: bool = False) -> None:
    """Checks that the checkpoint `path` holds this optimizer's slots and its step.

    Args:
      mend: for the error, a remedy other than using the same optimizer.
      all_saved: whether the optimizer must have all slots of the checkpoint, too.

    Raises:
      UserError: a slot is missing or has another shape; the message names the first one.
    """
    settings = "use the model, the optimizer's settings and FROZEN that it was trained with"
    saved = tensor_files.reader(model_dir.state_prefix(path)).get_variable_to_shape_map()
    wanted = {name: tuple(slot.shape) for name, slot in slots(optimizer).items()}
    for name, shape in sorted((wanted | {OPTIMIZER_STEP: ()}).items()):
        if tuple(saved.get(name, (-1,))) != shape:
            raise UserError(
                f"checkpoint '{path}' has no {name} of shape {shape}: {settings}, or {mend}"
            )
    extra = {name for name in saved if name.startswith("optimizer/")} - {*wanted, OPTIMIZER_STEP}
    if all_saved and extra:
        raise UserError(
            f"checkpoint '{path}' has {min(extra)}, which this run's optimizer lacks: {settings}, "
            f"or {mend}"
        )

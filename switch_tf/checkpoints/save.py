"""Writes a model alone, as a checkpoint to evaluate or to start other runs from."""

from typing import Literal

import tensorflow as tf

from switch_tf import storage
from switch_tf.checkpoints import contents, tensor_files
from switch_tf.checkpoints.model_dir import ModelDir, state_prefix, write_as_chief, writing
from switch_tf.errors import UserError


def save_model(
    path: str, model, config: str | None = None, dtype: Literal["float32", "bfloat16"] = "float32"
) -> None:
    """Writes a model's weights, without optimizer and data position, as a checkpoint folder.

    `restore.restore_model`, INITIAL_CHECKPOINT_PATH and CHECKPOINT_PATH accept it; a run cannot
    resume from it.

    Args:
      path: the folder to create; ~ expands to the home folder.
      model: the built model.
      config: the model's gin configuration, saved next to the weights as `config.gin`, against
        which commands that read the checkpoint check their own. Give it whenever it is known.
      dtype: what weights are rounded to. In "bfloat16" a copy takes half the space, and has the
        precision in which a model of that DTYPE computes anyway, but a fine-tuning that starts
        from it begins with rounded weights.

    Raises:
      UserError: the folder exists or cannot be written to.
    """
    path = ModelDir(path).path
    if storage.exists(path):
        raise UserError(f"'{path}' already exists: remove it, or give another path")
    with storage.told(f"cannot write to '{path}'"), writing(path) as folder:
        if config is not None:
            write_as_chief(ModelDir(folder).config, config)
        tensor_files.write(state_prefix(folder), contents.weights(model), tf.as_dtype(dtype))

"""Writes a model alone, as a checkpoint that others start from or that is evaluated."""

from switch_tf import storage
from switch_tf.checkpoints import contents, tensor_files
from switch_tf.checkpoints.model_dir import ModelDir, state_prefix, writing
from switch_tf.errors import UserError


def save_model(path: str, model, config: str | None = None) -> None:
    """Writes a model's weights, without optimizer and data, as a checkpoint folder.

    `restore.restore_model` reads it, and so do INITIAL_CHECKPOINT_PATH and CHECKPOINT_PATH; a run
    cannot go on from it as its own.

    Args:
      path: of the folder to be made.
      model: built.
      config: gin configuration of the model, kept beside the weights as `config.gin`: commands that
        are given the checkpoint compare their own with it.

    Raises:
      UserError: the folder is there already, or cannot be written.
    """
    if storage.exists(path):
        raise UserError(f"'{path}' is there already: remove it, or give another path")
    with storage.told(f"cannot write to '{path}'"), writing(path) as folder:
        if config is not None:
            storage.write_atomically(ModelDir(folder).config, config)
        tensor_files.write(state_prefix(folder), contents.weights(model))

"""Stand-alone evaluation of a checkpoint, as `switch-tf eval` runs it."""

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator, Mapping

import gin

from switch_tf import mesh as mesh_lib
from switch_tf import runtime, storage
from switch_tf.checkpoints import model_dir
from switch_tf.data.features import check_records
from switch_tf.data.task_data import TaskData
from switch_tf.errors import UserError
from switch_tf.evaluation.evaluators import Evaluators
from switch_tf.evaluation.settings import Evaluation
from switch_tf.metrics import figures
from switch_tf.rules import CheckpointPath, Path, configurable
from switch_tf.setup.describe import mesh_line, model_line, settings, switch_layers
from switch_tf.setup.mesh_model import ModelSetup
from switch_tf.stages import telling


@configurable
def evaluate(
    checkpoint_path: CheckpointPath = gin.REQUIRED,
    data: Callable[[], TaskData] = TaskData,
    setup: Callable[[], ModelSetup] = ModelSetup,
    evaluation: Callable[[], Evaluation] = Evaluation,
    output_path: Path | None = None,
) -> dict[str, dict[str, float]]:
    """Evaluates a checkpoint, prints a line for each task and writes the figures as JSON.

    Args:
      checkpoint_path: a checkpoint folder, or a MODEL_DIR, of which the newest checkpoint is used.
      data: makes the `TaskData`.
      setup: makes the `ModelSetup`; its mesh may differ from that of training.
      evaluation: makes the `Evaluation`.
      output_path: path of the JSON file; None uses `evaluations/<task>_<split>_<step>.json` in the
        MODEL_DIR or, for a checkpoint outside one, `evaluation_<task>_<split>.json` in its folder.
        An existing file is kept, and the new one gets a number. Predictions go next to it, to a
        folder of the same name that ends in `_predictions`.

    Returns:
      Task -> metric -> value.

    Raises:
      UserError: there is no checkpoint, it is of another model, or `train` would refuse the
        settings as well.
    """
    path = model_dir.find(checkpoint_path, "CHECKPOINT_PATH")
    data, evaluation = data(), evaluation()
    default = model_dir.evaluation(path, data.mixture_or_task_name, evaluation.split)
    wanted = os.path.expanduser(output_path or default)
    # Named only when all is there: evaluations of one checkpoint may run at the same time.
    folder = f"{os.path.splitext(wanted)[0]}_partial_{uuid.uuid4().hex}"
    with (
        _writable(wanted, makes_folder=output_path is None),
        _removed(folder),
        setup().mesh_model(data, checkpoint=("CHECKPOINT_PATH", path)) as made,
    ):
        with telling("opening the data, and checking its records"):
            evaluators = Evaluators(made, evaluation)
            with mesh_lib.host():
                check_records(evaluators.data)
        runtime.tell(evaluation.describe_one(evaluators.data), mesh_line(made.mesh))
        with telling("restoring the model"):
            made.restore(path)
        layers = switch_layers(made.model, evaluators.data, made.mesh)
        model = model_line(made.model), *settings(made.model), *layers
        runtime.tell(*model, f"restored {path}")
        results = evaluators.run(
            step=0, task_metrics=True, predictions=folder if evaluation.predictions else None
        )
        runtime.tell(*(figures.line(*of_task) for of_task in results.items()))
        if runtime.is_chief():
            _keep(results, folder, wanted)
    return results


def _keep(results: Mapping, predictions: str, wanted: str) -> None:
    """Writes the figures, moves the predictions beside them if there are any, and tells of both."""
    with storage.told(f"cannot write '{wanted}'"):
        # Another evaluation that failed meanwhile may have removed the empty folder.
        storage.make_folder(os.path.dirname(wanted) or ".")
        written = model_dir.claim(wanted)
        storage.write_json(written, results)
        told = f"written to {written}"
        if storage.exists(predictions):
            folder = model_dir.predictions_beside(written)
            storage.move_folder(predictions, folder)
            told += f", predictions to {folder}"
    if written != wanted:
        print(f"{wanted} holds an earlier evaluation and is kept")
    print(told)


@contextlib.contextmanager
def _removed(folder: str) -> Iterator[None]:
    """Context at whose end the folder is removed, if it is there."""
    try:
        yield
    finally:
        if storage.exists(folder):
            storage.remove_folder(folder)


@contextlib.contextmanager
def _writable(path: str, makes_folder: bool) -> Iterator[None]:
    """Context in which a file can be written; at its end, a folder made for it is not left empty.

    Args:
      path: path of the file.
      makes_folder: whether its folder is made if it is not there.

    Raises:
      UserError: it cannot be written.
    """
    folder = os.path.dirname(path)
    try:
        if makes_folder:
            storage.make_folder(folder)
        storage.try_to_write(path)
    except storage.errors() as error:
        raise UserError(
            f"output_path='{path}' cannot be written: set evaluate.output_path to a file in an "
            "existing, writable folder"
        ) from error
    try:
        yield
    finally:
        # On remote storage a folder is no more than the names of its files.
        if makes_folder and not storage.is_remote(folder):
            with contextlib.suppress(OSError):
                os.rmdir(folder)

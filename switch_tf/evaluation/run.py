"""Evaluation of a checkpoint by itself, as `switch-tf eval` runs it."""

import json
import os
from collections.abc import Callable

import gin

from switch_tf import mesh as mesh_lib
from switch_tf.checkpoints import checkpoints, run_facts
from switch_tf.data import features as features_lib
from switch_tf.data.batch_shape import check_batch
from switch_tf.errors import UserError
from switch_tf.evaluation.settings import Evaluation
from switch_tf.evaluation.task_metrics import TaskEvaluator
from switch_tf.evaluation.teacher_forced import TeacherForcedEvaluator, figures_line
from switch_tf.models.encoder_decoder import TransformerEncoderDecoder
from switch_tf.setup.describe import settings, switch_layers


@gin.configurable
def evaluate(
    checkpoint_path: str = gin.REQUIRED,
    mixture_or_task_name: str = gin.REQUIRED,
    task_feature_lengths: dict[str, int] = gin.REQUIRED,
    batch_size: int = gin.REQUIRED,
    model: Callable[[], TransformerEncoderDecoder] = TransformerEncoderDecoder,
    mesh_shape: str = "batch:1",
    layout_rules: str = "batch:batch",
    evaluation: Callable[[], Evaluation] = Evaluation,
    use_cached: bool = False,
    output_path: str | None = None,
) -> dict[str, dict[str, float]]:
    """Evaluates a checkpoint, prints a line a task and writes them as JSON.

    Args:
      checkpoint_path: a MODEL_DIR, whose newest checkpoint is taken, or a checkpoint folder.
      mixture_or_task_name: SeqIO task or mixture.
      task_feature_lengths: {"inputs": tokens, "targets": tokens}.
      batch_size: examples a batch, all devices together.
      model: makes the model.
      mesh_shape: as `mesh.parse_mesh_shape`; need not be that of training.
      layout_rules: as `mesh.parse_layout_rules`.
      evaluation: makes the `Evaluation`.
      use_cached: read what scripts/cache_tasks.sh wrote to CACHE_DIR.
      output_path: the JSON file; None: `evaluation.json` beside the checkpoint.

    Returns:
      Task -> metric -> value.

    Raises:
      UserError: no checkpoint, one of another model, or what `train` refuses too.
    """
    path = checkpoints.find(checkpoint_path)
    output_path = os.path.expanduser(output_path or os.path.join(path, "evaluation.json"))
    _check_writable(output_path)
    mesh = mesh_lib.Mesh.create(mesh_shape, layout_rules)
    what = evaluation()
    batch_size = what.batch_size or batch_size
    check_batch(batch_size, task_feature_lengths, mesh.rules, mesh.shape, what.batch_setting)
    with mesh_lib.use(mesh):
        network = model()
        features_lib.prepare(mixture_or_task_name, network.vocab_size, use_cached)
        digest = run_facts.vocabulary_digest(mixture_or_task_name)
        run_facts.check_vocabulary("CHECKPOINT_PATH", path, digest)
        network.build()
        layers = switch_layers(network, batch_size, task_feature_lengths, mesh)
        checkpoints.restore_model(path, network)
        print(*settings(network), *layers, f"restored {path}", sep="\n", flush=True)
        shared = (network, mesh, mixture_or_task_name, what.split, task_feature_lengths, batch_size)
        limits = (what.batches, use_cached, what.dropless)
        results = TeacherForcedEvaluator(*shared, *limits).run()
        if what.decode:
            decoded = TaskEvaluator(*shared, what.decode_examples, use_cached)
            for task, metrics in decoded.run(step=0).items():
                results[task] = results.get(task, {}) | metrics
    print(*(figures_line(*of_task) for of_task in results.items()), sep="\n", flush=True)
    with open(output_path, "w") as file:
        json.dump(results, file, indent=2)
    print(f"written to {output_path}")
    return results


def _check_writable(path: str) -> None:
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise UserError(
            f"output_path='{path}' cannot be written: set evaluate.output_path to a file in a "
            "folder that is there and may be written to"
        )

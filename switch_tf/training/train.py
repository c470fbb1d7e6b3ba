"""`switch-tf train`: builds, restores and trains a model.

Pre-training and fine-tuning differ only in gin: data, initial checkpoint, learning rate, dropout.
"""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import gin

from switch_tf import config, process, runtime
from switch_tf import mesh as mesh_lib
from switch_tf.checkpoints import run_facts
from switch_tf.checkpoints.lock import in_use
from switch_tf.checkpoints.manager import Checkpoints
from switch_tf.checkpoints.model_dir import ModelDir, write_as_chief
from switch_tf.checkpoints.restore import restore_initial
from switch_tf.data import answers, features, stamps
from switch_tf.data.batch_shape import local_rows
from switch_tf.data.entropy import unigram_entropy
from switch_tf.data.features import check_records, describe_order, train_batches
from switch_tf.data.feed import Feed
from switch_tf.data.lost import Lost
from switch_tf.data.lost import count as count_lost
from switch_tf.data.lost import lines as lost_lines
from switch_tf.data.reading import TaskSplit
from switch_tf.data.task_data import TaskData
from switch_tf.errors import UserError
from switch_tf.evaluation.evaluators import Evaluators
from switch_tf.evaluation.periodic import PeriodicEvaluation
from switch_tf.evaluation.settings import Evaluation
from switch_tf.hosts import agreement
from switch_tf.metrics.goodput import Goodput
from switch_tf.metrics.writer import MetricsWriter
from switch_tf.models.encoder_decoder import parameter_count
from switch_tf.rules import (
    Count,
    InitialCheckpoint,
    RunFolder,
    Seed,
    VariablePatterns,
    configurable,
)
from switch_tf.setup.describe import describe_optimizer, details, overview, warnings
from switch_tf.setup.mesh_model import MeshModel, ModelSetup
from switch_tf.stages import telling
from switch_tf.training.distillation import Distillation
from switch_tf.training.loop import TrainLoop
from switch_tf.training.step import TrainStep, build_step


@configurable(denylist=["profile_steps"])
def train(
    model_dir: RunFolder = gin.REQUIRED,
    train_steps: Count = gin.REQUIRED,
    data: Callable[[], TaskData] = TaskData,
    setup: Callable[[], ModelSetup] = ModelSetup,
    evaluation: Callable[[], Evaluation] = Evaluation,
    seed: Seed = 0,
    checkpoint_period: Count = 1000,
    keep_checkpoints: Count = 3,
    keep_period: Count | None = None,
    initial_checkpoint_path: InitialCheckpoint | None = None,
    restore_optimizer: bool = False,
    initial_checkpoint_fresh: VariablePatterns = (),
    initial_checkpoint_skipped: VariablePatterns = (),
    distillation: Callable[[], Distillation] | None = None,
    profile_steps: range = range(0),
) -> None:
    """Trains a model, or resumes the run in `model_dir`.

    Args:
      model_dir: folder for checkpoints and logs; if it already holds a run, that is resumed.
      train_steps: the step to stop at, counted from the run's start.
      data, setup, evaluation: make the `TaskData`, `ModelSetup` and `Evaluation`.
      seed: seeds initial weights and noise; SEED also sets `TaskData.seed`, the data's order.
      checkpoint_period: steps between checkpoints. A save takes seconds to minutes, and a crash
        loses at most this many steps; choose a period of ten minutes or more.
      keep_checkpoints: newest checkpoints to keep, each of weights and slots; at least 2 are safer.
      keep_period: checkpoints at multiples of it stay, too, to study how a model learns, or None.
      initial_checkpoint_path: source of a new run's weights; None initialises them from the seed.
      restore_optimizer: restores its optimizer slots and step, too, as T5 and T5X do: the first
        updates are scaled well, and the schedule continues.
      initial_checkpoint_fresh, initial_checkpoint_skipped: patterns of the weights that only the
        model has, as ["decoder/layer_1/"], disturbing the others until trained; and that
        only the checkpoint has, as ["switch_ffn"] for a dense model, whose learning is lost.
      distillation: makes the `Distillation` whose teacher counts in the loss; None for no teacher.
      profile_steps: steps of which TensorBoard gets a profile; see `profiling.profiled_steps`.

    Raises:
      UserError: settings that do not fit, before any step; a loss that is not finite.
      Interruption: a signal came; the step is saved, and the same call resumes.
    """
    goodput, data, setup, evaluation = Goodput(), data(), setup(), evaluation()
    weights = _weights_of(model_dir, initial_checkpoint_path)
    with contextlib.ExitStack() as stack, setup.mesh_model(data, seed, weights) as made:
        evaluators, feed, order, samples = _open(made, evaluation)
        stack.enter_context(in_use(model_dir))
        train_step = build_step(made, optimizer := setup.optimizer(), seed, distillation)
        saved = keep_checkpoints, made.model, optimizer, feed.iterator, config.operative_config
        checkpoints = Checkpoints(model_dir, *saved, keep_period, feed.files)
        others = optimizer, restore_optimizer, initial_checkpoint_fresh, initial_checkpoint_skipped
        initial = initial_checkpoint_path, made.model, *others
        step, restored = _restore(checkpoints, train_step, *initial)
        lines = [*overview(made.model, optimizer, made.mesh), order, restored]
        lines.append(f"{evaluation.describe()}; a checkpoint every {checkpoint_period:,} steps")
        lines.append(describe_optimizer(optimizer, step, train_step.optimizer_offset, train_steps))
        _tell(train_steps, checkpoints.path, made, lines, train_step)
        writer = _log(model_dir, step, made, setup, samples, goodput)
        periodic = PeriodicEvaluation(evaluators, evaluation, writer, model_dir, train_steps)
        parts = step, train_step, feed, checkpoints, writer, periodic, goodput
        TrainLoop(*parts).run(train_steps, checkpoint_period, profile_steps)


def _data_line(data: TaskData) -> str:
    lengths = data.task_feature_lengths
    row = lengths["inputs"] + lengths["targets"]
    return (
        f"trains on {data.mixture_or_task_name}, split '{data.split}': batches of "
        f"{data.batch_size:,} rows of {lengths['inputs']} + {lengths['targets']} tokens "
        f"({data.batch_size * row:,} per step)"
    )


def _tell(
    train_steps: int, model_dir: str, made: MeshModel, lines: Sequence[str], step: TrainStep
) -> None:
    """Prints, as the chief, what matters, and warnings; writes that and the rest to a file."""
    first = f"{_data_line(made.data)}, to step {train_steps:,}, in {model_dir}"
    lines = [first, *lines, step.describe()]
    path = ModelDir(model_dir).description
    parts = made.model, made.data, made.mesh, step.microbatches
    told = [*lines, f"the model's settings, weights with their layouts, and Switch layers: {path}"]
    runtime.tell(*told, *warnings(*parts))
    write_as_chief(path, "\n".join([*lines, "", *details(*parts)]) + "\n")


class _Samples(NamedTuple):
    """What is counted in samples of each task before a run.

    Attributes:
      lost: task -> what is lost of its training data.
      entropy: task -> unigram entropy of what it is evaluated on.
    """

    lost: dict[str, Lost]
    entropy: dict[str, float]


def _read_samples(made: MeshModel, evaluators: Evaluators) -> _Samples:
    """Reads samples of all data, so that most errors in them come before anything is written.

    What is lost is not counted while batches are made, because packed rows do not show their tasks,
    nor trimmed examples their lengths.
    """
    with mesh_lib.host(), telling("checking the data"):
        for data in (made.data, evaluators.data):
            check_records(data)
    with mesh_lib.host(), telling("looking for lost tokens"):
        lost = dict(count_lost(made.data))
    with mesh_lib.host(), telling("counting the tokens to evaluate on"):
        entropy = {
            task: unigram_entropy(
                batches, made.model.vocab_size, what=TaskSplit.of(evaluators.data, task)
            )
            for task, batches in evaluators.teacher_forced.datasets.items()
        }
    return _Samples(lost, entropy)


def _log(
    model_dir: str,
    step: int,
    made: MeshModel,
    setup: ModelSetup,
    samples: _Samples,
    goodput: Goodput,
) -> MetricsWriter:
    """Starts the log, with what is lost of each task's data, and keeps the run's facts."""
    writer = MetricsWriter(model_dir, restored_step=step)
    goodput.resume(writer.earlier, writer.lost_seconds)
    writer.start(config.operative_config(), config.macros())
    runtime.tell(*(f"split '{made.data.split}' of {line}" for line in lost_lines(samples.lost)))
    for task, of_task in samples.lost.items():
        writer.data(task, of_task.figures() | {"examples": of_task.examples})
    _keep_facts(model_dir, made, setup, samples.entropy)
    return writer


def _weights_of(model_dir: str, initial_checkpoint_path: str | None) -> tuple[str, str] | None:
    """Setting and path of the checkpoint that weights come from; None if they are initialised."""
    run = ModelDir(model_dir)
    if run.steps():
        return "MODEL_DIR", run.path
    if initial_checkpoint_path:
        return "INITIAL_CHECKPOINT_PATH", initial_checkpoint_path
    return None


def _open(made: MeshModel, evaluation: Evaluation) -> tuple[Evaluators, Feed, str, _Samples]:
    """What reads the data: evaluators, batches, a line on their order and rows, and samples."""
    with telling("opening the data, and checking its records"):
        evaluators = Evaluators(made, evaluation, in_training=True)
        _check_answers(made.data)
        with mesh_lib.host():
            batches = train_batches(made.data, local_rows(made.data.batch_size, made.mesh))
        what = TaskSplit.of(made.data)
        feed = Feed(batches, made.mesh, what)
        process.keep(feed)
        _check_same_data(feed)
    packed = "packed, several examples per row" if made.data.pack else "one example per row"
    samples = _read_samples(made, evaluators)
    order = describe_order(batches)
    if not made.data.use_cached and made.data.shares == 1 and not agreement.is_alone():
        order += f"; each host makes all rows{_shared_by(made)}"
    return evaluators, feed, f"{order}; {packed}", samples


def _shared_by(made: MeshModel) -> str:
    """How each host would make its own rows alone; "" where it needs all of them."""
    batch_size = made.data.batch_size
    parts, rest = divmod(batch_size, len(local_rows(batch_size, made.mesh)))
    if parts == 1 or rest:
        return ""
    return f" (with TaskData.shares={parts} or a cache, its own)"


def _check_same_data(feed: Feed) -> None:
    """Checks that this host reads the same as the chief: the cache, or files that `stamps` knows.

    Raises:
      UserError: it reads something else, from which it would make other batches.
    """
    if feed.tells_position:
        own = feed.iterator.serialize()
        if agreement.from_chief("the cache of the data", own) != own:
            raise UserError(
                "this host reads another cache than the chief: give all hosts the same CACHE_DIR"
            )
    files = feed.files
    chiefs = json.loads(agreement.from_chief("the files of the data", json.dumps(files)))
    if changed := stamps.first_change(chiefs, files):
        raise UserError(
            f"this host reads other data than the chief: {changed}: give all hosts the same files"
        )


def _check_answers(data: TaskData) -> None:
    """Checks that there is something to learn.

    Raises:
      UserError: the split has no labels.
    """
    with mesh_lib.host():
        unlabelled = answers.unlabelled(features.tasks(data), data)
    if unlabelled:
        raise UserError(
            f"split '{data.split}' of {', '.join(unlabelled)} has no labels to learn from: set "
            "TaskData.split to another one"
        )


def _restore(
    checkpoints: Checkpoints, train_step: TrainStep, initial_path: str | None, *others: Any
) -> tuple[int, str]:
    """Restores the run, or its initial checkpoint; returns the step, and a line that says it.

    Args:
      checkpoints: the run's.
      train_step: gets the optimizer's offset.
      initial_path: path of the initial checkpoint, if there is one.
      *others: the other arguments of `restore_initial`.
    """
    with telling("restoring a checkpoint, if there is one"):
        step = checkpoints.restore_latest()
        if step is None and initial_path:
            report = restore_initial(initial_path, *others)
            checkpoints.optimizer_offset = report.optimizer_step or 0
    train_step.optimizer_offset = checkpoints.optimizer_offset
    if step is not None:
        found = f"{checkpoints.contents} restored; 0 fresh, 0 skipped"
        return step, f"resumes from step {step} of {checkpoints.path}: {found}"
    if not initial_path:
        return 0, f"starts from initial values: {checkpoints.contents} fresh"
    return 0, str(report)


def _keep_facts(
    model_dir: str, made: MeshModel, setup: ModelSetup, entropy: Mapping[str, float]
) -> None:
    """Writes vocabulary and facts of the run for reports, and for later runs that start from it."""
    run_facts.keep_vocabulary(model_dir, made.data.provider())
    lengths = made.data.task_feature_lengths
    tokens = lengths["inputs"] + lengths["targets"]
    flops = made.model.flops(lengths["inputs"], lengths["targets"])
    facts = {
        "parameters": parameter_count(made.model),
        "flops_per_sequence": flops,
        "flops_per_token": flops / tokens,
        "tokens_per_step": made.data.batch_size * tokens,
        "unigram_entropy": dict(entropy),
        "mesh_shape": setup.mesh_shape,
        "layout_rules": setup.layout_rules,
        "devices": {"type": runtime.device_type(), "number": made.mesh.size},
        "dtype": made.model.compute_dtype,
        "vocabulary": made.vocabulary,
        "model": made.model.get_config(),
        "versions": run_facts.versions(),
    }
    write_as_chief(ModelDir(model_dir).facts, facts)

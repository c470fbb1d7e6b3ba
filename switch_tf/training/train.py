"""The run: build, restore, step, observe, evaluate, save; one loop for all kinds of training.

Pre-training and fine-tuning differ in data, initial checkpoint and learning rate, that is, in gin.
"""

import math
import os
import time
from collections.abc import Callable

import gin

from switch_tf import config
from switch_tf import mesh as mesh_lib
from switch_tf.checkpoints import run_facts
from switch_tf.checkpoints.checkpoints import Checkpoints, restore_initial, steps
from switch_tf.data import features as features_lib
from switch_tf.data.batch_shape import check_batch
from switch_tf.data.feed import Feed
from switch_tf.data.ordered import train_batches
from switch_tf.errors import UserError
from switch_tf.evaluation.settings import Evaluation
from switch_tf.evaluation.task_metrics import TaskEvaluator
from switch_tf.evaluation.teacher_forced import (
    TEACHER_FORCED,
    Stopped,
    TeacherForcedEvaluator,
    figures_line,
)
from switch_tf.metrics import best
from switch_tf.metrics.load_watch import LoadWatch
from switch_tf.metrics.progress import Progress
from switch_tf.metrics.writer import MetricsWriter, read_metrics
from switch_tf.models.encoder_decoder import TransformerEncoderDecoder
from switch_tf.optimizers.adafactor import Adafactor
from switch_tf.setup.describe import describe, describe_optimizer
from switch_tf.training.microbatches import check_parts
from switch_tf.training.signals import StopSignals
from switch_tf.training.step import TrainStep

_COUNTS = "TRAIN_STEPS BATCH_SIZE CHECKPOINT_PERIOD EVAL_PERIOD train.keep_checkpoints".split()


class Run:
    """A model in training and all that belongs to it.

    Args:
      model_dir: where checkpoints and logs go; a run that is there already is resumed.
      model, optimizer: functions making them.
      mixture_or_task_name, split, task_feature_lengths, batch_size, use_cached: the data.
      pack: whether rows hold several short examples, apart by segment ids, as T5 and T5X train:
        fewer positions are padding, so a step sees more tokens.
      mesh: the mesh, in use.
      seed: of initial values, data order, dropout.
      keep_checkpoints: how many are kept.
      initial_checkpoint_path: where a new run's weights come from; None: from the seed.
      restore_optimizer: whether the optimizer's slots and step come from there, too, as in
        Mesh-TensorFlow and T5X: updates are then scaled right from the first one, and a schedule
        goes on where it was. The run's own steps count from 0 all the same.
      evaluation: an `Evaluation`.
    """

    def __init__(
        self,
        model_dir: str,
        model: Callable[[], TransformerEncoderDecoder],
        optimizer: Callable[[], Adafactor],
        mixture_or_task_name: str,
        task_feature_lengths: dict[str, int],
        batch_size: int,
        mesh: mesh_lib.Mesh,
        seed: int,
        split: str,
        pack: bool,
        use_cached: bool,
        keep_checkpoints: int,
        initial_checkpoint_path: str | None,
        restore_optimizer: bool,
        evaluation: Evaluation,
    ):
        self.mesh = mesh
        self.name = mixture_or_task_name
        self.model_dir = model_dir
        self.evaluation = evaluation
        self.lengths = dict(task_feature_lengths)
        self.batch_size = batch_size
        self.load_watch = LoadWatch()
        self.model = model(seed=seed)
        features_lib.prepare(mixture_or_task_name, self.model.vocab_size, use_cached)
        self._check_vocabulary(initial_checkpoint_path)
        rows = (mixture_or_task_name, split, self.lengths, batch_size, pack, seed)
        with mesh_lib.host():
            batches = train_batches(*rows) if use_cached else features_lib.train_dataset(*rows)
        print(batches.describe() if use_cached else features_lib.UNCACHED, flush=True)
        self.feed = Feed(batches, mesh)
        self.model.build()
        self.optimizer = optimizer()
        self.optimizer.build(self.model.trainable_variables)
        self.train_step = TrainStep(self.model, self.optimizer, mesh, seed)
        check_parts(batch_size, self.train_step.microbatches, mesh.ways("batch"))
        self.checkpoints = Checkpoints(
            model_dir,
            keep_checkpoints,
            model=self.model,
            optimizer=self.optimizer,
            iterator=self.feed.iterator,
            config=config.operative_config,
        )
        self.step = self._restore(initial_checkpoint_path, restore_optimizer)
        print(self.train_step.describe())
        print(f"data: {'packed: several examples a row' if pack else 'not packed'}", flush=True)
        self.writer = MetricsWriter(model_dir, restored_step=self.step)
        self.writer.text("operative config", config.operative_config())
        rows = evaluation.batch_size or batch_size
        data = (mixture_or_task_name, evaluation.split, self.lengths, rows)
        shown = (evaluation.batches, use_cached, evaluation.dropless)
        self.teacher_forced = TeacherForcedEvaluator(self.model, mesh, *data, *shown)
        self.decoded = None
        if evaluation.decode:
            limits = (evaluation.decode_examples, use_cached)
            self.decoded = TaskEvaluator(self.model, mesh, *data, *limits)

    def _check_vocabulary(self, initial_checkpoint_path) -> None:
        self.vocabulary = run_facts.vocabulary_digest(self.name)
        if steps(self.model_dir):
            run_facts.check_vocabulary("MODEL_DIR", self.model_dir, self.vocabulary)
        elif initial_checkpoint_path:
            path = initial_checkpoint_path
            run_facts.check_vocabulary("INITIAL_CHECKPOINT_PATH", path, self.vocabulary)

    def _restore(self, initial_checkpoint_path, restore_optimizer) -> int:
        step = self.checkpoints.restore_latest()
        report = None
        if step is None and initial_checkpoint_path:
            path = initial_checkpoint_path
            report = restore_initial(path, self.model, self.optimizer, restore_optimizer)
            self.checkpoints.optimizer_offset = report.optimizer_step or 0
        self.train_step.optimizer_offset = self.checkpoints.optimizer_offset
        routed = self.batch_size // self.train_step.microbatches
        print(describe(self.model, self.optimizer, self.mesh, routed, self.lengths))
        if step is not None:
            print(
                f"resumes from step {step} of {self.model_dir}: {self.checkpoints.contents} "
                "restored; 0 fresh, 0 skipped",
                flush=True,
            )
        elif report is not None:
            print(report, flush=True)
        else:
            print(f"starts from initial values: {self.checkpoints.contents} fresh", flush=True)
        step = step or 0
        print(describe_optimizer(self.optimizer, step, self.checkpoints.optimizer_offset))
        return step

    def train(self, train_steps: int, checkpoint_period: int) -> None:
        """Trains up to `train_steps`, or until a signal, and saves.

        Raises:
          UserError: a loss that is not finite; the last checkpoint stays as it is.
        """
        batch = None
        with StopSignals() as signals, Progress(train_steps, self.step) as progress:
            try:
                due = self.step and self._due(self.step, train_steps)
                if due and not self._evaluated(train_steps):
                    self.evaluate(train_steps, signals.stopped)
                while self.step < train_steps and not signals.stopped():
                    batch = self._advance(progress)
                    if self.step % checkpoint_period == 0 or self.step == train_steps:
                        self._save(batch)
                    if self._due(self.step, train_steps):
                        self.evaluate(train_steps, signals.stopped)
                stopped = signals.stopped() and self.step < train_steps
            except Stopped:
                stopped = True
            finally:
                self.writer.close()
            if stopped:
                self._save(batch)
                done = self.step < train_steps or self._evaluated(train_steps)
                missing = "" if done else ", not evaluated"
                progress.say(
                    f"{signals.name} received: saved step {self.step}{missing}; the same command "
                    "resumes"
                )
            else:
                progress.say(
                    f"done: step {self.step} of TRAIN_STEPS={train_steps}, in {self.model_dir}; a "
                    "larger TRAIN_STEPS goes on from it"
                )
                print(*best.lines(self.name, self._best()), sep="\n", flush=True)

    def _best(self) -> dict:
        """Each task's best evaluation so far, which is written, too."""
        found = best.peaks(read_metrics(self.model_dir))
        best.write(self.model_dir, found)
        return found

    def _save(self, batch) -> None:
        """Saves, unless the last update left weights that a run could not go on from."""
        nlp = self.teacher_forced.nlp(batch) if batch is not None else 0.0
        if not math.isfinite(nlp):
            raise UserError(
                f"step {self.step} left weights whose loss is {-nlp}: they are not saved, and the "
                f"last checkpoint in {self.model_dir} is untouched: lower the learning rate, or "
                "set DTYPE='float32'"
            )
        self.checkpoints.save(self.step)

    def _advance(self, progress):
        """Makes one step, and returns its batch."""
        started = time.perf_counter()
        batch = self.feed.next()
        metrics = self.train_step(batch, self.step)
        seconds = time.perf_counter() - started
        self._check_finite(metrics)
        self.step += 1
        rates = {
            "tokens_per_second": sum(self.feed.tokens) / seconds,
            "input_wait_share": self.feed.wait_seconds / seconds,
            "seconds": seconds,
        }
        self.writer.train(self.step, metrics, rates)
        progress.update(self.step, metrics, rates)
        loads = {name: layer["load_E"] for name, layer in metrics["routing"].items()}
        for warning in self.load_watch.see(loads):
            progress.say(f"step {self.step}  {warning}")
        return batch

    def _check_finite(self, metrics) -> None:
        if math.isfinite(metrics["loss"]):
            return
        first = metrics["not_finite"][0] if metrics["not_finite"] else "the loss itself"
        logits = {name: layer["max_logit"] for name, layer in metrics["routing"].items()}
        largest = ""
        if logits:
            name = max(logits, key=lambda layer: _order(logits[layer]))
            largest = f"; largest router logit {logits[name]:.3g} in {name}"
        raise UserError(
            f"loss is {metrics['loss']} at step {self.step + 1}; first not finite: {first}"
            f"{largest}; the last checkpoint in {self.model_dir} is untouched: lower the learning "
            "rate, or set DTYPE='float32'"
        )

    def _due(self, step: int, train_steps: int) -> bool:
        return step % self.evaluation.period == 0 or step == train_steps

    def _decodes(self, train_steps: int) -> bool:
        """Whether the tasks' own metrics are due at this step, if it is evaluated."""
        period = self.evaluation.decode_period
        due = self.step >= train_steps or bool(period and self.step % period == 0)
        return self.decoded is not None and due

    def _evaluated(self, train_steps: int) -> bool:
        """Whether this step was, with all the figures that are due."""
        found = self.writer.evaluated(self.step)
        decoded = self.decoded.tasks if self._decodes(train_steps) else ()
        return set(self.teacher_forced.datasets) <= set(found) and all(
            found.get(task, set()) - TEACHER_FORCED for task in decoded
        )

    def evaluate(self, train_steps: int, stopped: Callable[[], bool] = lambda: False) -> dict:
        """Evaluates the model as it is; returns task -> metric -> value, which is logged too."""
        tasks = ", ".join(self.teacher_forced.datasets)
        print(f"\nstep {self.step}  evaluating {tasks}", flush=True)
        results = self.teacher_forced.run(stopped)
        if self._decodes(train_steps):
            for task, metrics in self.decoded.run(self.step, stopped).items():
                results[task] = results.get(task, {}) | metrics
        for task, metrics in results.items():
            self.writer.evaluation(self.step, task, metrics)
            print(f"\nstep {self.step}  {figures_line(task, metrics)}", flush=True)
        self._best()
        return results


def _order(value: float) -> float:
    """Sorts NaN above every number: it is the one to show."""
    return math.inf if math.isnan(value) else value


@gin.configurable
def train(
    model_dir: str = gin.REQUIRED,
    mixture_or_task_name: str = gin.REQUIRED,
    task_feature_lengths: dict[str, int] = gin.REQUIRED,
    batch_size: int = gin.REQUIRED,
    train_steps: int = gin.REQUIRED,
    model: Callable[[], TransformerEncoderDecoder] = TransformerEncoderDecoder,
    optimizer: Callable[[], Adafactor] = Adafactor,
    mesh_shape: str = "batch:1",
    layout_rules: str = "batch:batch",
    seed: int = 0,
    split: str = "train",
    pack: bool = False,
    use_cached: bool = False,
    checkpoint_period: int = 1000,
    keep_checkpoints: int = 3,
    initial_checkpoint_path: str | None = None,
    restore_optimizer: bool = False,
    evaluation: Callable[[], Evaluation] = Evaluation,
) -> None:
    """Trains a model, or goes on with the run in `model_dir`.

    Args:
      train_steps: the step to stop at, counted from the run's start.
      mesh_shape, layout_rules: as `mesh.parse_mesh_shape` and `mesh.parse_layout_rules`.
      checkpoint_period: steps between checkpoints.
      evaluation: makes the `Evaluation`.

    The others are those of `Run`.

    Raises:
      UserError: what does not fit, before any step; a loss that is not finite.
    """
    evaluation, model_dir = evaluation(), os.path.expanduser(model_dir)
    _check_counts(train_steps, batch_size, checkpoint_period, evaluation.period, keep_checkpoints)
    mesh = mesh_lib.Mesh.create(mesh_shape, layout_rules)
    shape = (task_feature_lengths, mesh.rules, mesh.shape)
    check_batch(batch_size, *shape)
    check_batch(evaluation.batch_size or batch_size, *shape, evaluation.batch_setting)
    with mesh_lib.use(mesh):
        run = Run(
            model_dir=model_dir,
            model=model,
            optimizer=optimizer,
            mixture_or_task_name=mixture_or_task_name,
            task_feature_lengths=task_feature_lengths,
            batch_size=batch_size,
            mesh=mesh,
            seed=seed,
            split=split,
            pack=pack,
            use_cached=use_cached,
            keep_checkpoints=keep_checkpoints,
            initial_checkpoint_path=initial_checkpoint_path,
            restore_optimizer=restore_optimizer,
            evaluation=evaluation,
        )
        run_facts.write(run, mesh_shape, layout_rules)
        run.train(train_steps, checkpoint_period)


def _check_counts(*counts: int) -> None:
    """Checks the values of `_COUNTS`."""
    for name, value in zip(_COUNTS, counts, strict=True):
        if not isinstance(value, int) or value < 1:
            raise UserError(f"{name}={value!r}: give a whole number of at least 1")

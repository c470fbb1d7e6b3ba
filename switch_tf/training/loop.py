"""The training loop: step, log, save and evaluate, until the last step or a signal."""

import contextlib
import io
import math
import os
import time

import numpy as np

from switch_tf import mesh as mesh_lib
from switch_tf import runtime, storage
from switch_tf.checkpoints.manager import Checkpoints
from switch_tf.checkpoints.model_dir import ModelDir, write_as_chief
from switch_tf.data.feed import Feed
from switch_tf.errors import InputHangs, Interruption, Restart, UserError
from switch_tf.evaluation.periodic import PeriodicEvaluation
from switch_tf.evaluation.teacher_forced import EvaluationInterrupt
from switch_tf.hosts import agreement
from switch_tf.metrics.goodput import Goodput
from switch_tf.metrics.load_watch import LoadWatch
from switch_tf.metrics.progress import Progress
from switch_tf.metrics.writer import MetricsWriter
from switch_tf.stages import telling
from switch_tf.training.profiling import Profiler
from switch_tf.training.restarts import Restarts
from switch_tf.training.signals import StopSignals
from switch_tf.training.step import TrainStep


class TrainLoop:
    """Runs training from the current step on.

    Args:
      step: number of steps made so far.
      train_step: performs one training step.
      feed: provides the batches.
      checkpoints: saves the run's checkpoints.
      writer: writes the run's log.
      evaluation: evaluates the run periodically.
      goodput: adds up where the run's time goes.
    """

    def __init__(
        self,
        step: int,
        train_step: TrainStep,
        feed: Feed,
        checkpoints: Checkpoints,
        writer: MetricsWriter,
        evaluation: PeriodicEvaluation,
        goodput: Goodput,
    ):
        self.step = step
        self._train_step = train_step
        self._feed = feed
        self._checkpoints = checkpoints
        self._writer = writer
        self._evaluation = evaluation
        self._goodput = goodput
        self._profiler = Profiler()
        self._load_watch = LoadWatch()
        self._bad_steps = train_step.bad_steps
        self._bad_steps.restore(checkpoints.notes)
        self._steps_made, self._restarts = 0, Restarts()
        self._is_first = True

    def run(
        self, train_steps: int, checkpoint_period: int, profile_steps: range = range(0)
    ) -> None:
        """Trains up to `train_steps` or until a signal, and saves checkpoints.

        Args:
          train_steps: the last step.
          checkpoint_period: steps between checkpoints.
          profile_steps: steps of which a profile is taken.

        Raises:
          UserError: a loss is not finite; the last checkpoint stays as it is. Or the data cannot
            be read any further; the step is saved, if this is the only host and no share failed.
          Interruption: a signal stopped it before the last step; the step is saved.
          Restart: the command is to start anew; the step is saved.
        """
        evaluation = self._evaluation
        self._profiler = Profiler(profile_steps, ModelDir(self._checkpoints.path).events)
        runtime.tell(*self._profiler.missed(self.step))
        self._checkpoints.protected = evaluation.kept
        # A process that was killed after an evaluation may not have come to it.
        evaluation.write_best()
        self._goodput.started()
        with StopSignals() as signals, Progress(train_steps, self.step) as progress:
            try:
                with contextlib.closing(self._writer), self._profiler:
                    stopped = self._train(train_steps, checkpoint_period, signals, progress)
                    self._end_profile(progress)
                    self._writer.goodput(self.step, self._goodput.seconds())
            except Restart:
                # A signal that came too late for `_restart`.
                if signals.number is None:
                    raise
                stopped = True
            evaluation.write_best(ended=True)
            if stopped:
                done = not self._is_over(train_steps) or evaluation.is_done(self.step)
                missing = "" if done else ", which is not evaluated yet"
                saved = f"saved step {self.step} in {self._checkpoints.path}{missing}"
                raise Interruption(signals.number, f"{saved}; rerun the command to resume")
            of = "of" if self.step <= train_steps else "beyond"
            place = f"done: step {self.step} {of} TRAIN_STEPS={train_steps}, in "
            place += self._checkpoints.path
            if self.step < train_steps:
                progress.say(f"{place}; {evaluation.early_line()}")
            else:
                progress.say(f"{place}; raise TRAIN_STEPS to continue")
            runtime.tell(*evaluation.best_lines(), self._goodput.line())

    def _train(
        self, train_steps: int, checkpoint_period: int, signals: StopSignals, progress: Progress
    ) -> bool:
        """Makes the steps, and what is due between them; returns whether a signal stopped it."""
        batch, evaluation = None, self._evaluation
        try:
            if evaluation.is_due(self.step) and not evaluation.is_done(self.step):
                self._evaluate(batch, signals)
            while not self._is_over(train_steps) and not signals.stopped():
                batch = self._advance(progress, batch, signals)
                self._checkpoints.finish(waits=False)
                if self.step % checkpoint_period == 0 or self.step == train_steps:
                    # Records up to a checkpoint's step must survive whatever comes next.
                    self._writer.flush()
                    self._save(batch, goes_on=True)
                if evaluation.is_due(self.step):
                    self._evaluate(batch, signals)
                if self._restarts.due(self._steps_made) and not self._is_over(train_steps):
                    self._restart(batch, signals, progress)
            stopped = signals.stopped() and not self._is_over(train_steps)
        except EvaluationInterrupt:
            stopped = True
        except Exception:
            # Several hosts cannot agree on anything where one has failed.
            if agreement.is_alone():
                self._finish_after_an_error()
            raise
        if stopped:
            self._writer.flush()
            self._save(batch)
        with telling("saving a checkpoint", at_once=False), self._goodput.within("saving"):
            self._checkpoints.finish()
        # The chief's end takes away what hosts agree through.
        agreement.barrier("the run ends")
        return stopped

    def _finish_after_an_error(self) -> None:
        """Ends a save that goes on; that it fails, too, is told, but is not why the run ends."""
        try:
            self._checkpoints.finish()
        except UserError as error:
            runtime.tell(f"the last checkpoint is not whole: {error}")

    def _restart(self, batch, signals: StopSignals, progress: Progress) -> None:
        """Saves, and raises `Restart`, unless a signal came that the new process would not get."""
        self._writer.flush()
        self._save(batch)
        self._steps_made = 0
        # Not `signals.stopped`, which may learn of another host's signal one step later.
        if not agreement.any_of("a host stops", signals.number is not None):
            agreement.barrier("the process starts anew")
            progress.say(
                f"step {self.step} is saved; the process starts anew after "
                f"{self._restarts.period:,} steps, as TensorFlow keeps memory of each on CPU"
            )
            raise Restart

    def _is_over(self, train_steps: int) -> bool:
        return self.step >= train_steps or self._evaluation.stops_early

    def _evaluate(self, batch, signals: StopSignals) -> None:
        """Evaluates, and saves the step if it is the best or the last, whatever the period.

        Also saves it if the evaluation fails, such as in a user's metric: the weights are good.
        """
        evaluation, before = self._evaluation, self._checkpoints.protected
        try:
            with self._goodput.within("evaluation"):
                evaluation.run(self.step, lambda: self._between_batches(signals))
        except Exception as error:
            # Data of an evaluation that hang do not keep the position of the training data.
            if not isinstance(error, EvaluationInterrupt) and agreement.is_alone():
                self._save(batch)
                saved = f"step {self.step} is saved in {self._checkpoints.path}"
                runtime.tell(f"{saved}; its evaluation fails: mend that, and rerun the command")
            raise
        # best.json names only what is there: the new is saved, then named, and then the old goes.
        self._checkpoints.protected = {*before, *evaluation.kept}
        if self.step in evaluation.kept or evaluation.stops_early:
            self._save(batch)
        evaluation.write_best()
        self._checkpoints.protected = evaluation.kept
        self._checkpoints.prune()

    def _between_batches(self, signals: StopSignals) -> bool:
        """Ends a save that is written, and returns whether to stop."""
        self._checkpoints.finish(waits=False)
        return signals.stopped()

    def _save(self, batch, goes_on: bool = False) -> None:
        """Saves a checkpoint, unless the last update left weights with a non-finite loss.

        Args:
          batch: that of the last step.
          goes_on: whether the run goes on while it is written.
        """
        nlp = self._evaluation.nlp(batch) if batch is not None else 0.0
        if not math.isfinite(nlp):
            raise UserError(
                f"step {self.step} produced weights whose loss is {-nlp}: they are not saved, and "
                + self._what_is_left()
            )
        self._checkpoints.notes = self._bad_steps.state()
        with telling("saving a checkpoint", at_once=False), self._goodput.within("saving"):
            (self._checkpoints.begin if goes_on else self._checkpoints.save)(self.step)
        self._writer.goodput(self.step, self._goodput.seconds())

    def _next(self, before, signals: StopSignals):
        """The next batch; if it cannot be read, saves the step, of which `before` was the batch.

        Raises:
          Interruption: a signal came, and the batch does not.
        """

        def is_over():
            # Data that are slow are worth the wait where nothing can be saved without them.
            return signals.number is not None and self._can_save(InputHangs())

        try:
            return self._feed.next(is_over)
        except Exception as error:
            saves = before is not None and self._can_save(error)
            if saves:
                self._writer.flush()
                self._save(before)
            elif before is not None and not isinstance(error, InputHangs):
                runtime.tell("the steps since the last checkpoint are not saved")
            if isinstance(error, InputHangs) and signals.number is not None:
                kept = f"saved step {self.step}" if saves else "the last steps are not saved"
                raise Interruption(signals.number, f"{kept}; {error}") from error
            raise

    def _can_save(self, error: Exception) -> bool:
        """Whether the last step can be saved although something failed since.

        A save takes all hosts, of which others may have failed in nothing. And the position of a
        pipeline of tf.data cannot be read while it is waited for, and means nothing if one of
        several shares has failed.
        """
        hangs = isinstance(error, InputHangs)
        tells = self._feed.tells_position or not (hangs or self._feed.is_torn)
        return agreement.is_alone() and tells

    def _advance(self, progress, before, signals: StopSignals):
        """Performs one training step, logs it, and returns its batch.

        Args:
          progress: shows it.
          before: the batch of the last step; None if no step was made.
          signals: those that end a wait for the batch.
        """
        for warning in self._profiler.begin(self.step + 1):
            progress.say(warning)
        started = time.perf_counter()
        stage, kind = contextlib.nullcontext(), "steps"
        if self._is_first:
            stage, kind = telling("compiling the first step"), "compiling"
            self._is_first = False
        with stage:
            batch = self._next(before, signals)
            with self._profiler.around(self.step + 1):
                metrics = self._train_step(batch, self.step)
        seconds = time.perf_counter() - started
        self._goodput.add("input", self._feed.wait_seconds)
        self._goodput.add(kind, seconds - self._feed.wait_seconds)
        self._steps_made += 1
        is_profiled = self._profiler.made(self.step + 1, seconds, self._feed.wait_seconds)
        why = metrics.get("skipped") or self._bad_steps.fault(metrics["loss"])
        if why:
            return before if self._pass_over(why, batch, metrics, progress) else None
        self._bad_steps.passed(metrics["loss"])
        self.step += 1
        rates = {
            "tokens_per_second": sum(self._feed.tokens) / seconds,
            "input_wait_share": self._feed.wait_seconds / seconds,
            "seconds": seconds,
        }
        self._writer.train(self.step, metrics, rates)
        progress.update(self.step, metrics, rates)
        if is_profiled:
            self._end_profile(progress)
        loads = {name: layer["load_E"] for name, layer in metrics["routing"].items()}
        for warning in self._load_watch.see(loads):
            progress.say(f"step {self.step}  {warning}")
        return batch

    def _end_profile(self, progress) -> None:
        """Ends a profile that is being taken, and says and logs what the steps' time went on."""
        if ended := self._profiler.end():
            line, figures = ended
            progress.say(line)
            if figures:
                self._writer.profile(self.step, figures)

    def _pass_over(self, why: str, batch, metrics, progress) -> bool:
        """Does about a bad step what its policy says; returns whether the weights are as before it.

        Raises:
          UserError: the run stops.
        """
        bad, settings = self.step + 1, self._bad_steps
        settings.count += 1
        kept = self._keep(batch, bad)
        told = f"{why} at step {bad}{self._where(metrics)}; its batch is kept in {kept}"
        if settings.stops():
            raise UserError(f"{told}; {self._what_is_left()}")
        if settings.policy == "skip":
            # The schedule goes on, as do data and noise.
            self.step = bad
            how = "its update is left out"
        else:
            self._go_back(bad)
            how = f"back to step {self.step}, and on behind that batch"
        self._writer.bad_step(self.step, bad, why, metrics["loss"])
        progress.say(f"{told}; {how} ({settings.count} so far)")
        return settings.policy == "skip"

    def _go_back(self, bad: int) -> None:
        """Restores an earlier step, and passes over the batches since, up to that of a bad step."""
        self._writer.flush()
        self.step = self._checkpoints.go_back(bad - self._bad_steps.back_steps)
        self._feed.skip(bad - self.step)
        self._bad_steps.restore(self._checkpoints.notes, keeps_count=True)
        self._goodput.lose(self._writer.rewind(self.step))
        self._evaluation.rewind()
        self._checkpoints.protected = self._evaluation.kept

    def _keep(self, batch, step: int) -> str:
        """Writes the batch of a bad step to a file; returns its path."""
        path = ModelDir(self._checkpoints.path).bad_step(step)
        arrays = {name: mesh_lib.to_numpy(value) for name, value in batch.items()}
        content = io.BytesIO()
        np.savez(content, **arrays)
        if runtime.is_chief():
            with storage.told(f"cannot write '{path}'"):
                storage.make_folder(os.path.dirname(path))
        write_as_chief(path, content.getvalue())
        return path

    def _where(self, metrics) -> str:
        """Where the first value that is not finite is, if there is one."""
        if math.isfinite(metrics["loss"]):
            return ""
        first = metrics["not_finite"][0] if metrics["not_finite"] else "the loss itself"
        logits = {name: layer["max_logit"] for name, layer in metrics["routing"].items()}
        largest = ""
        if logits:
            name = max(logits, key=lambda layer: _order(logits[layer]))
            largest = f"; largest router logit {logits[name]:.3g} in {name}"
        return f"; first non-finite value: {first}{largest}"

    def _what_is_left(self) -> str:
        """What a loss that is not finite leaves, and what to do."""
        self._checkpoints.finish()
        path = self._checkpoints.path
        there = ModelDir(path).steps()
        left = f"the last checkpoint in {path} is untouched" if there else "no checkpoint is there"
        is_exact = self._train_step.compute_dtype == "float32"
        return f"{left}: lower the learning rate" + ("" if is_exact else ", or set DTYPE='float32'")


def _order(value: float) -> float:
    """Sort key that puts NaN above all numbers, as it is the value to show."""
    return math.inf if math.isnan(value) else value

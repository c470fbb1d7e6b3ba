"""Settings of evaluation: what a run evaluates, and when."""

import dataclasses
from typing import Literal

from switch_tf.data.task_data import TaskData
from switch_tf.mesh import Mesh
from switch_tf.rules import BatchSize, Count, Name, Whole, configurable


@configurable
@dataclasses.dataclass
class Evaluation:
    """What a run evaluates, and when.

    Attributes:
      period: steps between evaluations; the last step is always evaluated. Training waits for an
        evaluation, so lower `batches` before you shorten the period; the paper's fine-tuning
        evaluates every 200 steps.
      split: split of the task, or of the mixture's tasks. Choose checkpoints on "validation".
      batches: maximum number of batches per task; None for the whole split. Only figures of whole
        splits compare between runs; a limit, such as 64, is good enough to follow pre-training.
      batch_size: examples per batch; None uses BATCH_SIZE. Dropless evaluation and decoding give
        each of E experts room for all tokens, which takes E / EVAL_CAPACITY_FACTOR times the memory
        of a capped batch. Large models need smaller batches here than in training.
      dropless: also reports NLP without dropped tokens, which shows what the capacity costs, for
        a second forward pass. Keep it on unless it does not fit, as with thousands of experts.
      decode: computes the tasks' own metrics, at the last step and every `decode_period` steps.
        Turn it on in fine-tuning; span corruption has no metrics.
      decode_period: steps between evaluations that include the tasks' own metrics; 0 for the last
        step only. Decoding is slow, so use a multiple of `period`.
      decode_examples: maximum number of examples per task for the tasks' own metrics; None for the
        whole split.
      predictions: writes inputs, targets and prediction, or score, of each example that is decoded
        or scored, as JSON lines: one or two kB per example and evaluation. Read them before you
        trust a metric; turn them off where decoding is frequent and the disk small.
      keep_best: checkpoints to keep in addition to `train.keep_checkpoints`: "score" for one, that
        of the evaluation with the best score; "tasks" also for those best by NLP and by the first
        own metric of each task, up to two per task; None for none. The score is the first of each
        task's own metrics if `decode_period` is set, otherwise NLP; for a mixture, its average
        or the mean over its tasks. The highest value is the best: a task must negate a metric where
        lower is better, such as an error rate. Each checkpoint takes the disk space of weights and
        slots. If none is due at the best step, one is saved after its evaluation: where saving is
        slow, evaluate only at steps where a checkpoint is due.
      early_stopping: ends a run after this many evaluations without a better score, which is
        a higher one (see `keep_best`), so that a run that only overfits does not go on; None never
        ends it early. Scores are noisy: choose 5 or more. A resumed run ends at the same step.
    """

    period: Count = 1000
    split: Name = "validation"
    batches: Count | None = None
    batch_size: BatchSize | None = None
    dropless: bool = True
    decode: bool = False
    decode_period: Whole = 0
    decode_examples: Count | None = None
    predictions: bool = True
    keep_best: Literal["score", "tasks"] | None = "score"
    early_stopping: Count | None = None

    def describe(self) -> str:
        """A line on what is evaluated, and when, and when a run ends early."""
        own = "at the last step"
        if self.decode_period:
            own = f"every {self.decode_period:,} steps and {own}"
        early = f"; stops early after {self.early_stopping} evaluations without a better score"
        return (
            f"evaluation: {self.split}, {self._size}, every {self.period:,} steps and at the last"
            + (f"; the tasks' own metrics {own}" if self.decode else "")
            + (early if self.early_stopping else "")
        )

    def describe_one(self, data: TaskData) -> str:
        """A line on a single evaluation.

        Args:
          data: the data to evaluate on, from `data`.
        """
        own = ""
        if self.decode:
            number = self.decode_examples
            of = "all examples" if number is None else f"at most {number:,} examples per task"
            own = f"; the tasks' own metrics of {of}"
        return (
            f"evaluates {data.mixture_or_task_name}, split '{self.split}': {self._size}, "
            f"{data.batch_size:,} examples per batch{own}"
        )

    @property
    def _size(self) -> str:
        if self.batches is None:
            return "the whole split"
        return f"at most {self.batches} batch{'es' * (self.batches > 1)} per task"

    def data(self, data: TaskData, mesh: Mesh) -> TaskData:
        """The data to evaluate on, derived from the run's data and checked against the mesh.

        Raises:
          UserError: the mesh does not divide the batch size.
        """
        found = dataclasses.replace(
            data, split=self.split, batch_size=self.batch_size or data.batch_size, pack=False
        )
        found.check_batch(mesh, "Evaluation.batch_size" if self.batch_size else "BATCH_SIZE")
        return found

"""Settings of evaluation: what a run evaluates, and when."""

import dataclasses

from switch_tf.data.task_data import TaskData
from switch_tf.mesh import Mesh
from switch_tf.rules import BatchSize, Count, Whole, configurable


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
      decode_period: steps between such evaluations, of those that `period` evaluates; 0 for the
        last step only. Decoding is slow, so use a multiple of `period`.
      decode_examples: maximum number of examples per task for them; None for the whole split.
    """

    period: Count = 1000
    split: str = "validation"
    batches: Count | None = None
    batch_size: BatchSize | None = None
    dropless: bool = True
    decode: bool = False
    decode_period: Whole = 0
    decode_examples: Count | None = None

    def describe(self) -> str:
        """A line on what is evaluated, and when."""
        size = "all of it" if self.batches is None else f"at most {self.batches} batches a task"
        own = "at the last step"
        if self.decode_period:
            own = f"every {self.decode_period:,} steps and {own}"
        return f"evaluation: {self.split}, {size}, every {self.period:,} steps and at the last" + (
            f"; the tasks' own metrics {own}" if self.decode else ""
        )

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

"""What a run evaluates, and when."""

import dataclasses

from switch_tf.data.task_data import TaskData
from switch_tf.mesh import Mesh
from switch_tf.rules import Count, Whole, configurable


@configurable
@dataclasses.dataclass
class Evaluation:
    """What a run evaluates, and when.

    Attributes:
      period: steps between evaluations; the last step is evaluated too.
      split: of the task, or of the mixture's tasks.
      batches: at most so many batches a task; None: the whole split.
      batch_size: examples a batch; None: BATCH_SIZE. What is dropless, and so decoding, too, gives
        each of E experts room for all tokens: E / EVAL_CAPACITY_FACTOR times the memory of a capped
        batch. Large models need smaller batches than training's.
      dropless: whether NLP is reported without dropping, too. It tells what the capacity costs; at
        thousands of experts it may not fit.
      decode: whether the tasks' own metrics are computed on decoded text, at the last step and
        every `decode_period` steps.
      decode_period: 0: at the last step only.
      decode_examples: at most so many examples a task; None: the whole split.
    """

    period: Count = 1000
    split: str = "validation"
    batches: Count | None = None
    batch_size: Count | None = None
    dropless: bool = True
    decode: bool = False
    decode_period: Whole = 0
    decode_examples: Count | None = None

    def data(self, data: TaskData, mesh: Mesh) -> TaskData:
        """What is read of a run's data, whose batches are checked against the mesh.

        Raises:
          UserError: they do not divide over it.
        """
        found = dataclasses.replace(
            data, split=self.split, batch_size=self.batch_size or data.batch_size, pack=False
        )
        found.check_batch(mesh, "Evaluation.batch_size" if self.batch_size else "BATCH_SIZE")
        return found

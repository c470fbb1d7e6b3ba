"""Teacher-forced evaluation: NLP over whole splits, at the evaluation capacity and dropless."""

import itertools
from collections.abc import Callable, Collection, Mapping

from switch_tf import mesh as mesh_lib
from switch_tf.data import features as features_lib
from switch_tf.data.batch_shape import LOST_SHARES
from switch_tf.data.feed import Feed
from switch_tf.data.reading import TaskSplit
from switch_tf.data.task_data import TaskData
from switch_tf.evaluation.eval_step import EvalStep
from switch_tf.stages import telling

# Figures of `TeacherForcedEvaluator` and of its data; others come from decoding or scoring.
TEACHER_FORCED = frozenset(
    ("nlp", "nlp_dropless", "token_accuracy", "dropped", "tokens") + LOST_SHARES
)


class EvaluationInterrupt(Exception):
    """The run was asked to stop during an evaluation."""


class TeacherForcedEvaluator:
    """NLP of each task of a mixture on one split, at the evaluation capacity and dropless.

    Args:
      model: a `TransformerEncoderDecoder`.
      mesh: the mesh in use.
      data: the data to evaluate on; each task of a mixture is evaluated by itself, its last batch
        filled up with padding.
      num_batches: maximum number of batches per task; None for the whole split.
      dropless: whether dropless NLP is computed too; see `Evaluation.dropless`.
      without: names of tasks to leave out.
    """

    def __init__(
        self,
        model,
        mesh: mesh_lib.Mesh,
        data: TaskData,
        num_batches: int | None = None,
        dropless: bool = True,
        without: Collection[str] = (),
    ):
        self._mesh = mesh
        self._data = data
        self._step = EvalStep(model, dropless)
        with mesh_lib.host():
            self._datasets = features_lib.eval_datasets(data, num_batches, without=without)

    @property
    def datasets(self) -> Mapping:
        """Task -> its batches."""
        return self._datasets

    def leave_out(self, tasks: Collection[str]) -> None:
        """Leaves out tasks, such as those whose split has no answers."""
        self._datasets = {n: batches for n, batches in self._datasets.items() if n not in tasks}

    def run(self, stop: Callable[[], bool] = lambda: False) -> dict[str, dict[str, float]]:
        """Evaluates every task.

        Args:
          stop: called between batches; returns whether to stop.

        Returns:
          Task -> nlp and, if asked for, nlp_dropless (minus nats per target token), token_accuracy,
          dropped (fraction of tokens dropped at the evaluation capacity), tokens (number of target
          tokens).

        Raises:
          EvaluationInterrupt: `stop` returned True.
        """
        with telling("evaluating", at_once=False) as tell:
            return {
                task: self._evaluate(task, stop, lambda n, task=task: tell(f"{task}, batch {n}"))
                for task in self._datasets
            }

    def nlp(self, batch) -> float:
        """NLP of one batch from the feed, at the evaluation capacity."""
        sums = self._step.capped(batch)
        return -sums["cross_entropy"] / max(sums["tokens"], 1.0)

    def _evaluate(self, task, stop, tell):
        what = TaskSplit.of(self._data, task)
        feed, sums = Feed(self._datasets[task], self._mesh, what), {}
        for number in itertools.count(1):
            tell(number)
            if stop():
                raise EvaluationInterrupt()
            try:
                batch = feed.next()
            except StopIteration:
                break
            for name, value in self._step(batch).items():
                sums[name] = sums.get(name, 0.0) + value
        tokens = max(sums["tokens"], 1.0)
        dropless = {}
        if "cross_entropy_dropless" in sums:
            dropless["nlp_dropless"] = -sums["cross_entropy_dropless"] / tokens
        return {
            "nlp": -sums["cross_entropy"] / tokens,
            **dropless,
            "token_accuracy": sums["correct"] / tokens,
            "dropped": 1.0 - sums["kept"] / max(sums["routed"], 1.0),
            "tokens": sums["tokens"],
        }

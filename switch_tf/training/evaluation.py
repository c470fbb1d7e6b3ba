"""Evaluation: teacher-forced over whole splits, and decoded through SeqIO's evaluator."""

import dataclasses
import math
from collections.abc import Callable, Mapping

import gin
import numpy as np
import seqio
import tensorflow as tf

from switch_tf import mesh as mesh_lib
from switch_tf.data import features as features_lib
from switch_tf.data import registry
from switch_tf.data.autograph import without_autograph
from switch_tf.data.feed import Feed
from switch_tf.data.trimming import longest, trim
from switch_tf.errors import UserError
from switch_tf.inference.decoding import GreedyDecoder
from switch_tf.inference.scoring import Scorer
from switch_tf.training.step import EvalStep


@gin.configurable
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

    period: int = 1000
    split: str = "validation"
    batches: int | None = None
    batch_size: int | None = None
    dropless: bool = True
    decode: bool = False
    decode_period: int = 0
    decode_examples: int | None = None

    @property
    def batch_setting(self) -> str:
        """The setting that gives the size of its batches."""
        return "Evaluation.batch_size" if self.batch_size else "BATCH_SIZE"

    def __post_init__(self):
        """Checks the numbers.

        Raises:
          UserError: naming the one that is none.
        """
        for name in ("batches", "batch_size", "decode_examples"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise UserError(f"Evaluation.{name}={value!r}: give a whole number of at least 1")


# Accelerators tile by it, and similar splits share a compiled function.
_COLUMNS = 8


# Figures of `TeacherForced`; others of a task are of what was decoded or scored.
TEACHER_FORCED = frozenset(("nlp", "nlp_dropless", "token_accuracy", "dropped", "tokens"))


class Stopped(Exception):
    """The run was asked to stop while it evaluated."""


class TeacherForced:
    """NLP of each task of a mixture on one split, at the evaluation capacity and dropless.

    Args:
      model: a `TransformerEncoderDecoder`.
      mesh: the mesh in use.
      mixture_or_task_name: what is evaluated, a mixture by its tasks.
      split: its split.
      feature_lengths: task feature -> tokens.
      batch_size: examples a batch; the last one is filled up with padding.
      num_batches: at most so many batches a task; None: the whole split.
      use_cached: read what SeqIO's Beam pipeline cached.
      dropless: whether the figure without dropping is made.
    """

    def __init__(
        self,
        model,
        mesh,
        mixture_or_task_name,
        split,
        feature_lengths,
        batch_size,
        num_batches,
        use_cached=False,
        dropless=True,
    ):
        self._mesh = mesh
        self._step = EvalStep(model, dropless)
        with mesh_lib.host():
            self._datasets = features_lib.eval_datasets(
                mixture_or_task_name,
                split,
                feature_lengths,
                batch_size,
                num_batches,
                use_cached=use_cached,
            )

    @property
    def datasets(self) -> Mapping:
        """Task -> its batches."""
        return self._datasets

    def run(self, stop: Callable[[], bool] = lambda: False) -> dict[str, dict[str, float]]:
        """Evaluates every task.

        Args:
          stop: asked between batches.

        Returns:
          Task -> nlp, nlp_dropless (minus nats per target token; the second where it is made),
          token_accuracy, dropped (share of the tokens at the evaluation capacity), tokens (target
          tokens).

        Raises:
          Stopped: `stop` said so.
        """
        return {task: self._evaluate(batches, stop) for task, batches in self._datasets.items()}

    def nlp(self, batch) -> float:
        """NLP of one batch as the feed gives it, at the evaluation capacity."""
        sums = self._step.capped(batch)
        return -sums["cross_entropy"] / max(sums["tokens"], 1.0)

    def _evaluate(self, batches, stop):
        feed, sums = Feed(batches, self._mesh), {}
        while True:
            if stop():
                raise Stopped()
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


class Decoded:
    """The tasks' own metrics, on greedily decoded predictions or on scores of given targets.

    Batches have the length of a split's longest example, at most that of `feature_lengths`.

    Args:
      model: a `TransformerEncoderDecoder`.
      mesh: the mesh in use.
      mixture_or_task_name: what is evaluated; tasks without metrics or without the split are not.
      split: its split.
      feature_lengths: task feature -> tokens; `targets` bounds what is decoded.
      batch_size: examples decoded together.
      num_examples: at most so many a task; None: the whole split.
      use_cached: read what SeqIO's Beam pipeline cached.
    """

    def __init__(
        self,
        model,
        mesh,
        mixture_or_task_name,
        split,
        feature_lengths,
        batch_size,
        num_examples,
        use_cached=False,
    ):
        self._name = mixture_or_task_name
        self._batch_size = batch_size
        features = registry.find(mixture_or_task_name).output_features
        pieces = features["targets"].vocabulary.vocab_size
        self._decoder = GreedyDecoder(model, mesh, feature_lengths["targets"], pieces)
        self._scorer = Scorer(model, mesh)
        self._mesh = mesh
        self._columns: dict[tf.data.Dataset, dict[str, int]] = {}
        with mesh_lib.host():
            self._evaluator = without_autograph(
                lambda: seqio.Evaluator(
                    mixture_or_task_name,
                    feature_converter=seqio.EncDecFeatureConverter(pack=False),
                    eval_split=split,
                    use_cached=use_cached,
                    sequence_length=dict(feature_lengths),
                    num_examples=num_examples,
                )
            )

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that have metrics and the split."""
        return [task.name for task in self._evaluator.eval_tasks]

    def run(self, step: int, stop: Callable[[], bool] = lambda: False) -> dict[str, dict]:
        """Task -> metric -> value; of a mixture that has one, its `average`, too.

        Args:
          step: of the model, for SeqIO's own records.
          stop: asked between batches.

        Raises:
          Stopped: `stop` said so.
        """

        def decode(features):
            return self._decoder(features["encoder_input_tokens"]).tolist()

        def score(features):
            return self._scorer(features).tolist()

        def of_examples(function):
            return lambda dataset, *_: self._by_index(function, dataset, stop)

        with mesh_lib.host():
            metrics, _ = self._evaluator.evaluate(
                compute_metrics=True,
                step=step,
                predict_fn=of_examples(decode),
                score_fn=of_examples(score),
            )
        found = {task: _numbers(values) for task, values in metrics.result().items()}
        average = registry.average(self._name, found)
        return found if average is None else found | {self._name: {"average": average}}

    def _by_index(self, function, dataset, stop) -> list[tuple]:
        """(index, output) of each example of a dataset of (index, features), batch by batch.

        Args:
          function: features of a batch -> a list of an output for each row.
        """
        outputs, columns = [], self._trimmed(dataset)
        # Batches of one size: a mesh wants their rows to divide.
        for indices, batch in dataset.batch(self._batch_size).as_numpy_iterator():
            if stop():
                raise Stopped()
            missing = self._batch_size - len(indices)
            batch = trim(batch, columns)
            features = {k: np.pad(v, [(0, missing), (0, 0)]) for k, v in batch.items()}
            with self._mesh.run():
                found = function(features)[: len(indices)]
            outputs += zip(indices.tolist(), found, strict=True)
        return outputs

    def _trimmed(self, dataset) -> dict[str, int]:
        """Columns that some example of the dataset needs: one shape for all its batches.

        Found once. No token is dropped, so padding changes no output, only how long it takes.
        """
        if dataset not in self._columns:
            batches = (b for _, b in dataset.batch(self._batch_size).as_numpy_iterator())
            multiple = math.lcm(_COLUMNS, self._mesh.ways("length"))
            self._columns[dataset] = longest(batches, multiple)
        return self._columns[dataset]


def _numbers(values: Mapping) -> dict[str, float]:
    """Those of a task's metrics that are numbers; SeqIO has texts, images and histograms, too."""
    values = {name: getattr(value, "value", value) for name, value in values.items()}
    return {name: float(v) for name, v in values.items() if isinstance(v, int | float | np.number)}


def figures_line(task: str, metrics: Mapping[str, float]) -> str:
    """One line of a task's figures."""
    return task + "  " + "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())

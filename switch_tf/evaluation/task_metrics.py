"""The tasks' own metrics, through SeqIO's evaluator."""

import collections
import contextlib
import copy
import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping

import numpy as np
import seqio
import tensorflow as tf

from switch_tf import mesh as mesh_lib
from switch_tf import storage, user_code
from switch_tf.data import registry
from switch_tf.data.answers import are_there
from switch_tf.data.autograph import without_autograph
from switch_tf.data.reading import TaskSplit, elements, user_errors
from switch_tf.data.task_data import TaskData
from switch_tf.data.trimming import longest, trim
from switch_tf.errors import UserError
from switch_tf.evaluation import predictions
from switch_tf.evaluation.teacher_forced import EvaluationInterrupt
from switch_tf.inference.decoding import GreedyDecoder
from switch_tf.inference.scoring import Scorer
from switch_tf.stages import telling

_TYPES = seqio.metrics.ModelOutputType
# Lengths are rounded up to it: it suits accelerators, and similar splits share a compiled function.
_COLUMNS = 8
# Examples on whose right answers metrics are tried.
_TRIED = 100


class TaskEvaluator:
    """The tasks' own metrics, on greedily decoded predictions or on scores of given targets.

    Tasks whose examples have no labels are only predicted. Batches are as long as the longest
    example of the split, and at most as long as `data` allows.

    Args:
      model: a `TransformerEncoderDecoder`.
      mesh: the mesh in use.
      data: the data to evaluate on; tasks without metrics or without the split are skipped. The
        length of `targets` limits decoding.
      num_examples: maximum number of examples per task; None for the whole split.

    Raises:
      UserError: the data cannot be read, or see `answers.Look`.
    """

    def __init__(self, model, mesh: mesh_lib.Mesh, data: TaskData, num_examples: int | None = None):
        self._name = data.mixture_or_task_name
        self._num_examples = num_examples
        self._batch_size = data.batch_size
        lengths = dict(data.task_feature_lengths)
        pieces = data.provider().output_features["targets"].vocabulary.vocab_size
        self._decoder = GreedyDecoder(model, mesh, lengths["targets"], pieces)
        self._scorer = Scorer(model, mesh)
        self._mesh = mesh
        self._what = TaskSplit.of(data)
        self._columns: dict[tf.data.Dataset, dict[str, int]] = {}
        logging.getLogger("absl").addFilter(_is_not_raised_too)
        with mesh_lib.host(), user_errors(self._what):
            self._evaluator = without_autograph(
                lambda: seqio.Evaluator(
                    self._name,
                    feature_converter=seqio.EncDecFeatureConverter(pack=False),
                    eval_split=data.split,
                    use_cached=data.use_cached,
                    sequence_length=lengths,
                    num_examples=num_examples,
                )
            )
            self._unlabelled: list[seqio.Task] = []
            self.leave_out(self._without_answers())

    def leave_out(self, tasks: Collection[str]) -> None:
        """Takes tasks whose examples have no answers from those of which there are metrics."""
        every = self._evaluator.eval_tasks
        self._unlabelled += [task for task in every if task.name in tasks]
        self._evaluator._eval_tasks = [task for task in every if task.name not in tasks]

    def _without_answers(self) -> list[str]:
        evaluator, found = self._evaluator, []
        for task in evaluator.eval_tasks:
            examples = evaluator.cached_task_datasets[task.name].as_numpy_iterator()
            are_all = self._num_examples is None
            if not are_there(task, self._what.split, examples, are_all):
                found.append(task.name)
        return found

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that have metrics and the split."""
        return [task.name for task in self._evaluator.eval_tasks]

    def check(self) -> None:
        """Computes the metrics of right answers, so that one that cannot work is told at once.

        Raises:
          UserError: see `run`.
        """
        if not self.tasks:
            return
        own = f"trying the metrics of {self._name} on right answers"
        with mesh_lib.host(), telling(own, at_once=False), _told(self._what):
            try:
                self._try(_TRIED)
            except Exception:
                # A measure of two classes, for one, may need more examples.
                self._try(tf.data.INFINITE_CARDINALITY)

    def _try(self, examples: int) -> None:
        def right(features):
            return features["decoder_target_tokens"].tolist()

        def equal(features):
            return [0.0] * len(features["decoder_target_tokens"])

        def of_examples(function):
            return lambda dataset, *_: self._by_index(function, dataset, lambda: False)

        few = copy.copy(self._evaluator)
        few._cached_targets, few._metrics_executor = collections.defaultdict(list), None
        for cached in ("_cached_model_datasets", "_cached_task_datasets"):
            whole = getattr(self._evaluator, cached)
            setattr(few, cached, {name: of.take(examples) for name, of in whole.items()})
        metrics, _ = few.evaluate(
            compute_metrics=True, predict_fn=of_examples(right), score_fn=of_examples(equal)
        )
        for task, values in metrics.result().items():
            _numbers(task, values)

    def run(
        self,
        step: int,
        stop: Callable[[], bool] = lambda: False,
        folder: str | None = None,
    ) -> dict[str, dict]:
        """Evaluates every task.

        Args:
          step: step of the model, for SeqIO's own records.
          stop: called between batches; returns whether to stop.
          folder: folder for the predictions; None writes none.

        Returns:
          Task -> metric -> value, with the number of examples as `decoded` if it was limited; and
          mixture -> `average` -> value, if the mixture has one.

        Raises:
          EvaluationInterrupt: `stop` returned True.
          UserError: a metric, or another function of the task's, failed.
        """

        def decode(features):
            return self._decoder(features["encoder_input_tokens"]).tolist()

        def score(features):
            return self._scorer(features).tolist()

        def of_examples(function):
            return lambda dataset, *_: self._by_index(function, dataset, stop, tell)

        own = f"computing the metrics of {self._name}"
        with mesh_lib.host(), telling(own, at_once=False) as tell, _told(self._what):
            metrics, outputs = self._evaluator.evaluate(
                compute_metrics=True,
                step=step,
                predict_fn=of_examples(decode),
                score_fn=of_examples(score),
            )
            for task in self._unlabelled if folder is not None else ():
                outputs[task.name] = self._outputs(task, of_examples(decode), of_examples(score))
            for name, of_task in outputs.items() if folder is not None else ():
                dataset = self._evaluator.cached_task_datasets[name]
                examples = elements(dataset, self._what)
                predictions.write(folder, seqio.TaskRegistry.get(name), examples, of_task)
        with _told(self._what):
            found = {task: _numbers(task, values) for task, values in metrics.result().items()}
        average = registry.average(self._name, found)
        if self._num_examples is not None:
            for task, figures in found.items():
                figures["decoded"] = max(map(len, outputs[task].values()))
        return found if average is None else found | {self._name: {"average": average}}

    def _outputs(self, task: seqio.Task, decode, score) -> dict:
        """What the model answers to the examples of a task, as SeqIO's evaluator returns it."""
        kinds = {metric.model_output_type for metric in task.metric_objs}
        dataset, found = self._evaluator.cached_model_datasets[task.name], {}
        for kind, function in ((_TYPES.PREDICTION, decode), (_TYPES.SCORE, score)):
            if kind in kinds:
                found[kind] = [output for _, output in sorted(function(dataset), key=_number)]
        return found

    def _by_index(self, function, dataset, stop, tell=lambda _: None) -> list[tuple]:
        """Computes (index, output) of each example, batch by batch.

        Args:
          function: maps the features of a batch to a list with an output for each row.
          dataset: yields (index, features).
          stop: called between batches; returns whether to stop.
          tell: takes how far it is.
        """
        outputs, columns = [], self._trimmed(dataset)
        of_tasks = self._evaluator.cached_model_datasets
        task = next((f"'{name}', " for name in of_tasks if of_tasks[name] is dataset), "")
        # All batches are padded to the same size, which the mesh divides.
        for indices, batch in elements(dataset.batch(self._batch_size), self._what):
            if stop():
                raise EvaluationInterrupt()
            missing = self._batch_size - len(indices)
            batch = trim(batch, columns)
            features = {k: np.pad(v, [(0, missing), (0, 0)]) for k, v in batch.items()}
            with self._mesh.run():
                found = function(features)[: len(indices)]
            outputs += zip(indices.tolist(), found, strict=True)
            tell(f"{task}{len(outputs):,} examples")
        return outputs

    def _trimmed(self, dataset) -> dict[str, int]:
        """Lengths that fit every example of the dataset, so that all batches have one shape.

        Computed once per dataset. Routing is dropless, so lengths change the speed, not the output.
        """
        if dataset not in self._columns:
            pairs = elements(dataset.batch(self._batch_size), self._what)
            batches = (batch for _, batch in pairs)
            multiple = math.lcm(_COLUMNS, self._mesh.ways("length"))
            self._columns[dataset] = longest(batches, multiple)
        return self._columns[dataset]


def _is_not_raised_too(record: logging.LogRecord) -> bool:
    """False for what SeqIO logs of an error that it raises then."""
    return not str(record.msg).startswith("Failed to evaluate task")


@contextlib.contextmanager
def _told(what: TaskSplit) -> Iterator[None]:
    """Names the place of an error in a user's metric, before gin hides what it was raised from."""
    try:
        yield
    except Exception as error:
        place = user_code.place_of(error)
        if place is None and user_code.is_of_library(error, __file__):
            # Such as a metric that returns no dict.
            place = (
                f"SeqIO cannot use what the task's metrics return: {type(error).__name__}: "
                f"{storage.first_line(error)}: see its metric_fns, metric_objs and postprocess_fn"
            )
        if place is None or isinstance(error, UserError):
            raise
        raise UserError(f"{what}: {place}") from error


def _number(numbered: tuple) -> int:
    return numbered[0]


def _numbers(task: str, values: Mapping) -> dict[str, float]:
    """The metrics that are numbers; SeqIO also has texts, images and histograms.

    Raises:
      UserError: another metric is no number.
    """
    found = {}
    for name, value in values.items():
        if isinstance(value, seqio.metrics.MetricValue) and not hasattr(value, "value"):
            continue
        number = np.asarray(getattr(value, "value", value))
        if number.ndim or number.dtype.kind not in "biuf":
            what = f"metric '{name}' of task '{task}'"
            raise UserError(f"{what} is {value!r}: have it return a number")
        found[name] = float(number)
    return found

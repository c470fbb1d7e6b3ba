"""What a run reads: a task or mixture with its split, lengths, batches and order."""

from __future__ import annotations

import dataclasses

from switch_tf import config
from switch_tf.data.batch_shape import check_batch
from switch_tf.errors import UserError
from switch_tf.mesh import Mesh
from switch_tf.rules import BatchSize, Count, Lengths, Name, Seed, configurable


@configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskData:
    """The data for training, evaluation or a plan (T5X: `DatasetConfig`).

    Attributes:
      mixture_or_task_name: the name of a SeqIO task or mixture; a plan needs none.
      task_feature_lengths: {"inputs": tokens, "targets": tokens}, the length of a row. Longer
        examples are truncated, shorter ones padded or packed. Longer rows lose less text but slow
        every step; a run says at its start which tasks lose what, and `switch-tf tasks NAME
        --statistics` shows more.
      batch_size: rows in a global batch, over all devices. A larger one gives smoother gradients
        and better use of the devices but needs more memory per step.
      split: the split of the task, or of the mixture's tasks.
      pack: whether a row holds several short examples, separated by segment ids, as in T5 and T5X.
        Fewer positions are padding, so a step sees more tokens. Leave it off if one long example
        fills a row anyway.
      seed: seeds the order of examples, how tasks are mixed, and the noise.
      use_cached: whether to read the cache written by scripts/cache_tasks.sh, in an order that is a
        function of (seed, step) alone. Caching takes time and disk space once and saves tokenising
        in every run: recommended for training.
      shares: the number of equal parts of the examples, of tasks that are not cached, each of which
        makes the same rows of every batch. With several hosts, each makes only the shares of its
        rows, so that tokenising is shared out, and any number of hosts comes to the same batches.
        Each share reads the whole source, and takes every n-th record of it; building one takes
        about a second of the start, and its buffers some MB of each checkpoint. Give the largest
        number of hosts that the run will have; 1 on a single host. Another number is another order.
        Preprocessors see every n-th record: those that skip, take or cache records are refused, and
        those that pair neighbours, such as by `batch`, pair others. A function that is the source
        must give the same order for the same seed, and may shuffle once.
      module: the module whose import registers the task or mixture; None if it is already imported.
    """

    mixture_or_task_name: Name | None = None
    task_feature_lengths: Lengths
    batch_size: BatchSize
    split: Name = "train"
    pack: bool = False
    seed: Seed = 0
    use_cached: bool = False
    shares: Count = 1
    module: Name | None = None

    def provider(self):
        """The registered `seqio.Task` or `seqio.Mixture`.

        Raises:
          UserError: no name is given or registered, or the module does not exist.
        """
        from switch_tf.data import registry

        if self.module is not None:
            config.import_module(self.module, "TaskData.module")
        if self.mixture_or_task_name is None:
            raise UserError("no data: set MIXTURE_OR_TASK_NAME; `switch-tf tasks` lists the names")
        return registry.find(self.mixture_or_task_name)

    def check_batch(self, mesh: Mesh, setting: str = "BATCH_SIZE") -> None:
        """Checks that batches can be sharded over a mesh, which needs no devices.

        Args:
          mesh: the mesh.
          setting: the setting that gives the batch size.

        Raises:
          UserError: they cannot; the message names that setting or TASK_FEATURE_LENGTHS, and
            MESH_SHAPE.
        """
        check_batch(self.batch_size, self.task_feature_lengths, mesh.rules, mesh.shape, setting)

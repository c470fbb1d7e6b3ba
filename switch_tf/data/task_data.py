"""What a run reads: one value for a task or mixture, its split, lengths, batches and order."""

from __future__ import annotations

import dataclasses

from switch_tf import config
from switch_tf.data.batch_shape import check_batch
from switch_tf.errors import UserError
from switch_tf.mesh import Mesh
from switch_tf.rules import BatchSize, Lengths, Seed, configurable


@configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskData:
    """The data of training, of evaluation, or of a plan (T5X: `DatasetConfig`).

    Attributes:
      mixture_or_task_name: of SeqIO; a plan does without.
      task_feature_lengths: {"inputs": tokens, "targets": tokens} of a row. Longer examples are cut,
        shorter ones padded or packed, and the time of a step grows with both.
      batch_size: rows of a global batch, all devices together.
      split: of the task, or of the mixture's tasks.
      pack: whether rows hold several short examples, apart by segment ids, as T5 and T5X train:
        fewer positions are padding, so a step sees more tokens. Leave it off where one long example
        fills a row anyway.
      seed: seeds the order of examples, how tasks are mixed, and the noise.
      use_cached: whether what scripts/cache_tasks.sh wrote is read, in an order that is a function
        of (seed, step) alone.
      module: whose import registers the task or mixture; None: it was imported.
    """

    mixture_or_task_name: str | None = None
    task_feature_lengths: Lengths
    batch_size: BatchSize
    split: str = "train"
    pack: bool = False
    seed: Seed = 0
    use_cached: bool = False
    module: str | None = None

    def provider(self):
        """The `seqio.Task` or `seqio.Mixture`.

        Raises:
          UserError: none is named or registered by the name, or there is no such module.
        """
        from switch_tf.data import registry

        if self.module is not None:
            config.import_module(self.module, "TaskData.module")
        if self.mixture_or_task_name is None:
            raise UserError("no data: set MIXTURE_OR_TASK_NAME; `switch-tf tasks` lists names")
        return registry.find(self.mixture_or_task_name)

    def check_batch(self, mesh: Mesh, setting: str = "BATCH_SIZE") -> None:
        """Checks that batches divide over a mesh, which may be on paper.

        Args:
          mesh: the mesh.
          setting: which gives the batch size.

        Raises:
          UserError: naming that setting or TASK_FEATURE_LENGTHS, and MESH_SHAPE.
        """
        check_batch(self.batch_size, self.task_feature_lengths, mesh.rules, mesh.shape, setting)

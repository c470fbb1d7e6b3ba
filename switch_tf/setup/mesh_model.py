"""A model on its mesh, checked against its data: what every command does before its own work."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

from switch_tf import mesh as mesh_lib
from switch_tf.checkpoints import restore, run_facts
from switch_tf.data import features
from switch_tf.data.task_data import TaskData
from switch_tf.models.encoder_decoder import TransformerEncoderDecoder
from switch_tf.optimizers.adafactor import Adafactor
from switch_tf.optimizers.base import Optimizer
from switch_tf.rules import configurable


@dataclasses.dataclass(frozen=True)
class MeshModel:
    """A model on a mesh in use, whose vocabulary is that of the data.

    Attributes:
      mesh: the mesh in use.
      model: without weights, until it is built or restored.
      data: what it reads.
      vocabulary: digest of the data's vocabularies, of `run_facts.vocabulary_digest`.
    """

    mesh: mesh_lib.Mesh
    model: TransformerEncoderDecoder
    data: TaskData
    vocabulary: str

    def restore(self, path: str) -> None:
        """Makes the weights, and takes all of them from the checkpoint folder `path`.

        Raises:
          UserError: damaged, or of another model.
        """
        self.model.build()
        restore.restore_model(path, self.model)


@configurable
@dataclasses.dataclass(frozen=True)
class ModelSetup:
    """Which model and optimizer, over which devices.

    Attributes:
      model: makes the model.
      optimizer: makes the optimizer of what trains.
      mesh_shape: as `mesh.parse_mesh_shape`; need not be that of a checkpoint's run.
      layout_rules: as `mesh.parse_layout_rules`.
    """

    model: Callable[..., TransformerEncoderDecoder] = TransformerEncoderDecoder
    optimizer: Callable[[], Optimizer] = Adafactor
    mesh_shape: str = "batch:1"
    layout_rules: str = "batch:batch"

    def mesh_on_paper(self, data: TaskData) -> mesh_lib.Mesh:
        """The mesh without its devices, and the data's batches checked against it.

        Raises:
          UserError: sizes that do not fit each other.
        """
        mesh = mesh_lib.Mesh.on_paper(self.mesh_shape, self.layout_rules)
        data.check_batch(mesh)
        return mesh

    @contextlib.contextmanager
    def mesh(self, data: TaskData) -> Iterator[mesh_lib.Mesh]:
        """The mesh, in use within the context, and the data's batches checked against it.

        Raises:
          UserError: fewer devices than it has places, or sizes that do not fit each other.
        """
        mesh = mesh_lib.Mesh.create(self.mesh_shape, self.layout_rules)
        data.check_batch(mesh)
        with mesh_lib.use(mesh):
            yield mesh

    @contextlib.contextmanager
    def mesh_model(
        self, data: TaskData, seed: int = 0, checkpoint: tuple[str, str] | None = None
    ) -> Iterator[MeshModel]:
        """Mesh, model and data, each checked against the others before any weight is made.

        Args:
          data: what the model will read, which is made ready.
          seed: seeds the initial weights.
          checkpoint: setting and path of the MODEL_DIR or checkpoint that weights come from.

        Raises:
          UserError: what does not fit, or data or vocabularies that are missing.
        """
        with self.mesh(data) as mesh:
            model = self.model(seed=seed)
            features.prepare(data, model.vocab_size)
            vocabulary = run_facts.vocabulary_digest(data.provider())
            if checkpoint is not None:
                run_facts.check_vocabulary(*checkpoint, vocabulary)
            yield MeshModel(mesh, model, data, vocabulary)

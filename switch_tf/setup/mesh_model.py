"""Sets up a model on its mesh and checks it against its data, the first thing commands do."""

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
from switch_tf.stages import telling


@dataclasses.dataclass(frozen=True)
class MeshModel:
    """A model on a mesh in use, checked against its data.

    Attributes:
      mesh: the mesh in use.
      model: the model, without weights until it is built or restored.
      data: the data that it reads.
      vocabulary: digest of the data's vocabularies, from `run_facts.vocabulary_digest`.
    """

    mesh: mesh_lib.Mesh
    model: TransformerEncoderDecoder
    data: TaskData
    vocabulary: str

    def restore(self, path: str) -> None:
        """Creates the weights and restores all of them from the checkpoint folder `path`.

        Raises:
          UserError: the checkpoint is damaged, or of another model.
        """
        self.model.build()
        restore.restore_model(path, self.model)


@configurable
@dataclasses.dataclass(frozen=True)
class ModelSetup:
    """The model, the optimizer, and the mesh they are sharded over.

    Attributes:
      model: makes the model.
      optimizer: makes the optimizer for training. `Adafactor`, as in the paper, needs far less
        memory than `AdamW`, which keeps two numbers per weight.
      mesh_shape: mesh dimensions and sizes, such as "batch:4,model:2"; may differ from the mesh
        that a checkpoint was written on.
      layout_rules: mesh dimensions of tensor axes, such as "batch:batch,experts:batch". Files in
        gin/layouts set the paper's five layouts. expert_data.gin suits most Switch models: it
        shards the experts at the cost of all-to-alls. Add model parallelism, which also needs
        all-reduces in each layer, if weights do not fit.
    """

    model: Callable[..., TransformerEncoderDecoder] = TransformerEncoderDecoder
    optimizer: Callable[[], Optimizer] = Adafactor
    mesh_shape: str = "batch:1"
    layout_rules: str = "batch:batch"

    def mesh_on_paper(self, data: TaskData) -> mesh_lib.Mesh:
        """The mesh without devices; checks the data's batches against it.

        Raises:
          UserError: sizes do not fit each other.
        """
        mesh = mesh_lib.Mesh.on_paper(self.mesh_shape, self.layout_rules)
        data.check_batch(mesh)
        return mesh

    @contextlib.contextmanager
    def mesh(self, data: TaskData) -> Iterator[mesh_lib.Mesh]:
        """Context in which the mesh is in use; checks the data's batches against it.

        Raises:
          UserError: there are too few devices, or sizes do not fit each other.
        """
        mesh = mesh_lib.Mesh.create(self.mesh_shape, self.layout_rules)
        data.check_batch(mesh)
        with mesh_lib.use(mesh):
            yield mesh

    @contextlib.contextmanager
    def mesh_model(
        self, data: TaskData, seed: int = 0, checkpoint: tuple[str, str] | None = None
    ) -> Iterator[MeshModel]:
        """Context with mesh, model and data, checked against each other before weights are made.

        Args:
          data: the data that the model will read; it is prepared here.
          seed: seeds the initial weights.
          checkpoint: setting and path of the MODEL_DIR or checkpoint that weights come from.

        Raises:
          UserError: settings do not fit each other, or data or vocabularies are missing.
        """
        with self.mesh(data) as mesh:
            model = self.model(seed=seed)
            with telling(f"reading {data.mixture_or_task_name}"):
                # A checkpoint fixes the size of its vocabulary.
                features.prepare(data, model.vocab_size, checkpoint and checkpoint[0])
                vocabulary = run_facts.vocabulary_digest(data.provider())
            if checkpoint is not None:
                run_facts.check_vocabulary(*checkpoint, vocabulary)
            yield MeshModel(mesh, model, data, vocabulary)

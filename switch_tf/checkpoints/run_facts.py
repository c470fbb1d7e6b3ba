"""What is known of a run beside its checkpoints: `run.json` in its MODEL_DIR."""

import hashlib
import json
import os

import seqio

from switch_tf import mesh as mesh_lib
from switch_tf.data import registry
from switch_tf.data.entropy import unigram_entropy
from switch_tf.errors import UserError
from switch_tf.models.encoder_decoder import parameter_count

_FILE = "run.json"


def write(run, mesh_shape: str, layout_rules: str) -> None:
    """Writes what a report on the run, and a later one that goes on from it, needs.

    Args:
      run: a `train.Run`.
      mesh_shape, layout_rules: as it was given.
    """
    model, lengths = run.model, run.lengths
    tokens = lengths["inputs"] + lengths["targets"]
    flops = model.flops(lengths["inputs"], lengths["targets"])
    with mesh_lib.host():
        entropy = {
            task: unigram_entropy(batches, model.vocab_size)
            for task, batches in run.teacher_forced.datasets.items()
        }
    facts = {
        "parameters": parameter_count(model),
        "flops_per_sequence": flops,
        "flops_per_token": flops / tokens,
        "tokens_per_step": run.batch_size * tokens,
        "unigram_entropy": entropy,
        "mesh_shape": mesh_shape,
        "layout_rules": layout_rules,
        "dtype": model.compute_dtype,
        "vocabulary": run.vocabulary,
    }
    path = os.path.join(run.model_dir, _FILE)
    with open(path + ".new", "w") as file:
        json.dump(facts, file, indent=2)
    os.replace(path + ".new", path)


def vocabulary_digest(mixture_or_task_name: str) -> str:
    """A digest of the vocabularies of a task or mixture, which differs where their pieces do."""
    # Most tasks of a mixture share one, whose model takes megabytes.
    vocabularies = {
        id(feature.vocabulary): feature.vocabulary
        for task in seqio.get_subtasks(registry.find(mixture_or_task_name))
        for feature in task.output_features.values()
    }
    found = set()
    for vocabulary in vocabularies.values():
        model = getattr(vocabulary, "sp_model", None)
        name = f"{type(vocabulary).__name__} of {vocabulary.vocab_size}".encode()
        found.add(hashlib.sha256(model or name).hexdigest())
    return " ".join(sorted(found))


def check_vocabulary(setting: str, path: str, digest: str) -> None:
    """Checks that a run, or the run of a checkpoint, had this vocabulary, where it is known.

    Args:
      setting: which names the path.
      path: of a MODEL_DIR, or of a checkpoint in it.
      digest: of `vocabulary_digest`.

    Raises:
      UserError: it had another: the model's embeddings are of other pieces.
    """
    path = os.path.expanduser(path).rstrip("/")
    for folder in (path, os.path.dirname(path)):
        file = os.path.join(folder, _FILE)
        if os.path.isfile(file):
            with open(file) as opened:
                known = json.load(opened).get("vocabulary", digest)
            if known != digest:
                raise UserError(
                    f"{setting}='{path}' holds a model of another vocabulary than this run's task "
                    f"has: set VOCABULARY_PATH to the one that it was trained with, or give "
                    f"another {setting}"
                )
            return

"""Facts about a run, kept next to its checkpoints in `run.json`."""

import hashlib
import json

import seqio

from switch_tf import storage
from switch_tf.checkpoints.model_dir import FACTS, find_file
from switch_tf.errors import UserError


def vocabulary_digest(provider) -> str:
    """A digest of the vocabularies of a task or mixture, which differs if their pieces do.

    Args:
      provider: a `seqio.Task` or `seqio.Mixture`.
    """
    # Most tasks of a mixture share one vocabulary, whose model takes megabytes.
    vocabularies = {
        id(feature.vocabulary): feature.vocabulary
        for task in seqio.get_subtasks(provider)
        for feature in task.output_features.values()
    }
    found = set()
    for vocabulary in vocabularies.values():
        model = getattr(vocabulary, "sp_model", None)
        name = f"{type(vocabulary).__name__} of {vocabulary.vocab_size}".encode()
        found.add(hashlib.sha256(model or name).hexdigest())
    return " ".join(sorted(found))


def check_vocabulary(setting: str, path: str, digest: str) -> None:
    """Checks that a run, or the run of a checkpoint, used this vocabulary, if known.

    Args:
      setting: the setting that gives the path.
      path: a MODEL_DIR, or a checkpoint in one.
      digest: the result of `vocabulary_digest`.

    Raises:
      UserError: it used another, so that the model's embeddings belong to other pieces.
    """
    file = find_file(path, FACTS)
    known = json.loads(storage.read_text(file)) if file else {}
    if known.get("vocabulary", digest) != digest:
        raise UserError(
            f"{setting}='{path}' holds a model of another vocabulary than this run's task has: set "
            f"VOCABULARY_PATH to the one that it was trained with, or give another {setting}"
        )

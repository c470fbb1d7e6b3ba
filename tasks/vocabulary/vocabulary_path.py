"""Locates the vocabulary that VOCABULARY_PATH names.

Needs no TensorFlow, so that commands can check it before they start.
"""

import os

from switch_tf import storage
from switch_tf.errors import UserError

SETTING = "VOCABULARY_PATH"
# T5's vocabulary of 32,000 pieces, to which SeqIO adds 100 sentinels.
T5 = "gs://t5-data/vocabs/cc_all.32000/sentencepiece.model"
# mT5's vocabulary of 250,000 pieces, including 100 sentinels.
MT5 = "gs://t5-data/vocabs/mc4.250000.100extra/sentencepiece.model"
MEND = (
    f"set {SETTING} to a copy of T5's, such as spiece.model of huggingface.co/google-t5/t5-base, "
    "to vocabulary.model in the MODEL_DIR of a run, or to your own, trained on the text of a task "
    "with switch-tf tasks NAME --train_vocabulary=8000 and the --gin flags of the run"
)


def check_new(path: object) -> None:
    """Checks that a vocabulary can be made at a path.

    Raises:
      UserError: none is given, or something is there.
    """
    if not isinstance(path, str):
        raise UserError(
            f"{SETTING} is not set: give --gin.{SETTING}=\"'PATH'\", the path to write the "
            "vocabulary to"
        )
    if storage.local_path(SETTING, path).exists():
        raise UserError(f"{SETTING}='{path}' already exists: give another path, or remove it")


def check(path: object) -> str:
    """Checks a vocabulary's path, and expands ~ to the home folder.

    Raises:
      UserError: it is not a string, or a local file that does not exist; the message says where to
        get one.
    """
    if not isinstance(path, str):
        raise UserError(f"{SETTING}={path!r}: give a path in quotes")
    path = os.path.expanduser(path)
    if not storage.is_remote(path) and not os.path.isfile(path):
        raise UserError(f"{SETTING}='{path}': no such file; {MEND}")
    return path

"""SentencePiece's training of a unigram model, in a process of its own where it takes long.

It holds Python's lock while it runs: within this process, no progress could be told meanwhile, and
no signal heeded. The other process imports this module, so it imports nothing that takes long.
"""

import dataclasses
import io
import multiprocessing
import re
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection

import sentencepiece

from switch_tf.errors import UserError
from switch_tf.stages import telling

# SentencePiece silently drops longer sentences.
MAX_SENTENCE_BYTES = 4096
# Fewer take less than a second, about as long as another process takes to start.
_FEW_CHARACTERS = 300_000


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a model is trained.

    Attributes:
      size: number of pieces.
      character_coverage: share of the characters that have a piece.
      keeps_text: whether texts are kept as they are, with their line breaks and indentation.
    """

    size: int
    character_coverage: float = 0.9995
    keeps_text: bool = False


def train(sentences: Sequence[str], settings: Settings) -> bytes:
    """The model of these sentences; see `t5.train`.

    Raises:
      UserError: the sentences have too few distinct pieces.
    """
    if sum(map(len, sentences)) <= _FEW_CHARACTERS:
        return _train(sentences, settings)
    with telling(f"training a vocabulary of {settings.size:,} pieces"):
        return _train_elsewhere(sentences, settings)


# SentencePiece learns no pieces with these; as pieces of their own they are kept.
_KEEPING = {
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "allow_whitespace_only_pieces": True,
    "user_defined_symbols": ["\n", "\t", "\r"],
}


def _train(sentences: Sequence[str], settings: Settings) -> bytes:
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            model_type="unigram",
            vocab_size=settings.size,
            character_coverage=settings.character_coverage,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            # With several threads, the order of float sums would vary.
            num_threads=1,
            shuffle_input_sentence=False,
            max_sentence_length=MAX_SENTENCE_BYTES,
            minloglevel=2,
            **(_KEEPING if settings.keeps_text else {}),
        )
    except RuntimeError as error:
        # SentencePiece says: "Vocabulary size too high (2000). Please set it to a value <= 512."
        # Or: "Vocabulary size is smaller than required_chars. 8 vs 30."
        limit = re.search(r"too high .*<= ?(\d+)", str(error))
        why = f"use at most {limit[1]}" if limit else str(error).splitlines()[-1]
        if needed := re.search(r"required_chars\. \d+ vs (\d+)", str(error)):
            why = f"give at least {needed[1]} pieces, or lower --character_coverage"
        raise UserError(
            f"cannot make a vocabulary of {settings.size} pieces from these texts: {why}"
        ) from error
    return model.getvalue()


def _train_elsewhere(sentences: Sequence[str], settings: Settings) -> bytes:
    # Forking a process that runs TensorFlow's threads may hang.
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, sentences, settings), daemon=True)
    process.start()
    sender.close()
    try:
        found = receiver.recv()
    except EOFError:
        process.join()
        raise UserError(
            f"the process that trained a vocabulary of {settings.size} pieces ended with status "
            f"{process.exitcode}: it may have had too little memory; rerun the command"
        ) from None
    finally:
        process.kill()
        process.join()
    if isinstance(found, UserError):
        raise found
    return found


def _send(sender: Connection, sentences: Sequence[str], settings: Settings) -> None:
    """Sends the model, or the `UserError`."""
    # A terminal sends Ctrl-C to this process, too; the other one ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        sender.send(_train(sentences, settings))
    except UserError as error:
        sender.send(error)

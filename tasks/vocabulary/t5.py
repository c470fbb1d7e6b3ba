"""SentencePiece vocabularies with T5's special ids, trained here or located at first use."""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import sentencepiece
import seqio
import tensorflow as tf
from google.protobuf import message
from sentencepiece import sentencepiece_model_pb2
from seqio import vocabularies

from switch_tf import config, rules, storage
from switch_tf.errors import UserError
from switch_tf.tasks.vocabulary import unigram, vocabulary_path

# Number of sentinels after the pieces, as in T5.
EXTRA_IDS = 100
# More text would take longer and hardly change the pieces.
TRAINING_CHARACTERS = 10_000_000


@dataclasses.dataclass(frozen=True)
class Lacking:
    """The characters of a text that have no piece in a vocabulary.

    Attributes:
      characters: how often each occurs.
      of: number of all characters of the text but blanks.
    """

    characters: Mapping[str, int]
    of: int

    def line(self, character_coverage: float) -> str:
        """Says how many there are, and what to do about it.

        Args:
          character_coverage: that of the vocabulary.
        """
        if not self.characters:
            return f"all {self.of:,} characters of the text that are not blank have a piece"
        count = sum(self.characters.values())
        most = sorted(self.characters, key=lambda c: (-self.characters[c], c))[:5]
        return (
            f"{count:,} of {self.of:,} characters of the text ({count / self.of:.2%}) have no "
            f"piece and are read as unknown, {len(self.characters):,} different ones, most often "
            f"{' '.join(most)}: to give more of them a piece, raise "
            f"--character_coverage={character_coverage:g}, up to 1"
        )


def train(
    texts: Iterable[str],
    path: Path,
    size: int,
    character_coverage: float = 0.9995,
    normalization: str = "nmt_nfkc",
) -> Lacking:
    """Trains a unigram model and writes it atomically; the same texts give the same file.

    Ids are T5's: 0 is padding, 1 end of sequence, 2 unknown.

    Args:
      texts: the documents to train on.
      path: the file to write; its folder is created.
      size: number of pieces, without sentinels. More pieces make texts shorter in tokens but
        embeddings larger and rare pieces less well trained; T5 uses 32,000.
      character_coverage: share of the characters that have a piece of their own.
      normalization: "nmt_nfkc", as in T5, or "identity", which keeps line breaks and indentation.

    Returns:
      The characters without a piece.

    Raises:
      UserError: the texts have too few distinct pieces for `size`, or iterating over them fails.
    """
    settings = unigram.Settings(size, character_coverage, normalization == "identity")
    sentences = list(_sentences(texts, settings.keeps_text))
    model = unigram.train(sentences, settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    storage.write_atomically(path, model)
    return _lacking(sentences, model)


def _sentences(texts: Iterable[str], keeps_text: bool) -> Iterator[str]:
    for text in texts:
        for line in text.split("\n") if keeps_text else text.splitlines():
            # A character takes at most four bytes in UTF-8.
            for start in range(0, len(line), unigram.MAX_SENTENCE_BYTES // 4):
                piece = line[start : start + unigram.MAX_SENTENCE_BYTES // 4]
                if piece.strip():
                    yield piece if keeps_text else piece.strip()


def _lacking(sentences: Iterable[str], model: bytes) -> Lacking:
    counts = collections.Counter()
    for sentence in sentences:
        counts.update(sentence)
    for character in [c for c in counts if c.isspace()]:
        del counts[character]
    tokenizer = sentencepiece.SentencePieceProcessor(model_proto=model)
    unknown = tokenizer.unk_id()
    lacking = {c: n for c, n in counts.items() if unknown in tokenizer.encode(c)}
    return Lacking(lacking, counts.total())


class LazyVocabulary(seqio.SentencePieceVocabulary):
    """A SentencePiece vocabulary whose file is located, or trained, only at first use.

    SeqIO needs a vocabulary when a task is registered, before gin is read. 100 sentinels follow
    the pieces, unless the model contains sentinels itself, as T5X's and mT5's do.

    Args:
      find: returns the path of the model where VOCABULARY_PATH names none, creating the file if
        needed. Must be a module-level function, because vocabularies are copied and compared.
    """

    def __init__(self, find: Callable[[], str]):
        super().__init__("", extra_ids=EXTRA_IDS)
        self.find = find

    @property
    def sentencepiece_model_file(self) -> str:
        """The path of the model in use.

        Raises:
          UserError: VOCABULARY_PATH names a file that does not exist or cannot be reached; the
            message says how to get or train one.
        """
        named = config.macro("VOCABULARY_PATH", None, annotation=rules.Path)
        return self.find() if named is None else _reachable(named)

    def _model_context(self) -> vocabularies._ModelContext:
        path = self.sentencepiece_model_file
        try:
            if path != self._sentencepiece_model_file:
                # The gin configuration has changed since the last use.
                self._extra_ids = 0 if _holds_sentinels(path) else EXTRA_IDS
                self._sentencepiece_model_file = path
                self._model = None
            return super()._model_context()
        except (RuntimeError, message.DecodeError) as error:
            raise UserError(
                f"{path}: not a SentencePiece model ({error}); train it again, or give another file"
            ) from error

    @property
    def extra_ids(self) -> int:
        """Number of sentinels that SeqIO adds to the pieces."""
        self._model_context()
        return self._extra_ids

    def __eq__(self, other) -> bool:
        # Equality does not depend on whether the model has been loaded.
        return isinstance(other, LazyVocabulary) and self.find == other.find


def _holds_sentinels(path: str) -> bool:
    """Whether a SentencePiece model contains span corruption's sentinels as pieces."""
    with tf.io.gfile.GFile(path, "rb") as file:
        model = sentencepiece_model_pb2.ModelProto.FromString(file.read())
    return any(piece.piece.removeprefix("▁") == "<extra_id_0>" for piece in model.pieces)


def t5_vocabulary_path() -> str:
    """The path of T5's SentencePiece model.

    Raises:
      UserError: it cannot be reached; the message says how to get or train one.
    """
    return _reachable(vocabulary_path.T5)


def mt5_vocabulary_path() -> str:
    """The path of mT5's SentencePiece model; see `t5_vocabulary_path`."""
    return _reachable(vocabulary_path.MT5)


def _reachable(path: str) -> str:
    path = vocabulary_path.check(path)
    if path.startswith("gs://") and not storage.reaches_google():
        raise UserError(f"VOCABULARY_PATH='{path}' cannot be reached: {vocabulary_path.MEND}")
    return path


def _features(find: Callable[[], str]) -> dict[str, seqio.Feature]:
    vocabulary = LazyVocabulary(find)
    return {
        # `required=False`, because span corruption makes the inputs from the targets.
        "inputs": seqio.Feature(vocabulary=vocabulary, add_eos=True, required=False),
        "targets": seqio.Feature(vocabulary=vocabulary, add_eos=True),
    }


T5_OUTPUT_FEATURES = _features(t5_vocabulary_path)
MT5_OUTPUT_FEATURES = _features(mt5_vocabulary_path)

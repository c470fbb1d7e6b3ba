"""Labelled examples whose labels come from the docstrings themselves, in the manner of SuperGLUE.

Examples of a split are made of that split's documents only. Pre-training sees the train documents
too, so only the validation documents are new to a fine-tuned model.
"""

import dataclasses
import functools
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

from tasks.pydocs_parse import Document


@dataclasses.dataclass(frozen=True)
class Difficulty:
    """How hard `copa` and `rte` are.

    Attributes:
      same_library: whether the wrong summary is of the same library, so that its topic and style
        give nothing away.
      shared_words: least number of content words that the right summary has in common with the
        passage of the body that is shown, the one that has most of them.
      lure_words: largest number that the wrong one has.
    """

    same_library: bool
    shared_words: int
    lure_words: int


# Set for models of a few million parameters and tokens: the wrong summary is of another library and
# shares no content word with the body, so a model that only compares words gets all of them right.
DIFFICULTY = Difficulty(same_library=False, shared_words=3, lure_words=0)
# Shown of a body: with two summaries this is within 96 tokens of the default vocabulary.
BODY_CHARACTERS = 80
# Searched for the passage that is shown.
_SEARCHED_CHARACTERS = 600
LONG_BODY_CHARACTERS = 320
SUMMARY_CHARACTERS = range(20, 91)
# The largest, but for those whose validation documents are few: see `library`.
LABELS = ("tensorflow", "transformers", "scipy", "pandas", "sklearn", "matplotlib", "jax", "nltk")
# Names and usual short names, which would give the label away.
_MASKED = re.compile(
    r"tensorflow|transformers|hugging ?face|scipy|pandas|scikit-?learn|sklearn|matplotlib|pyplot"
    r"|mpl|numpy|keras|jax|nltk|\b(?:tf|np|pd|plt|sp|jnp|tfds)\b",
    re.IGNORECASE,
)
MASK = "_"
_COMMON = frozenset(
    "also another been both default each else false from have here into more must none only other "
    "over return returns same should some such than that their them then there these this those "
    "true used uses using value values when where whether which will with".split()
)
# Documents tried as a source of the wrong summary before one is given up.
_TRIES = 50
_CHOICES = ("choice1", "choice2")
_ENTAILMENT = ("entailment", "not_entailment")


@dataclasses.dataclass(frozen=True)
class _Pair:
    """A summary, what is shown of its body, and a summary that belongs to another body."""

    document: Document
    summary: str
    body: str
    lure: str


def shorten(text: str, characters: int) -> str:
    """`text` on one line, cut at the end of a word to at most `characters` characters."""
    text = " ".join(text.split())
    if len(text) <= characters:
        return text
    return text[: characters + 1].rpartition(" ")[0] or text[:characters]


def passage(text: str, wanted: set[str], characters: int) -> str:
    """The first part of `text`, of at most `characters`, that has most of the words `wanted`.

    It starts and ends at words; a text is put on one line first.
    """
    words = text[:_SEARCHED_CHARACTERS].split()
    found = [_content_of(word) & wanted for word in words]
    best, most = " ".join(words[:1]), -1
    for first in range(len(words)):
        length, seen, end = -1, set(), first
        while end < len(words) and length + 1 + len(words[end]) <= characters:
            length += 1 + len(words[end])
            seen |= found[end]
            end += 1
        if end > first and len(seen) > most:
            best, most = " ".join(words[first:end]), len(seen)
    return best


# The same few thousand words make up most of the corpus.
@functools.cache
def _content_of(word: str) -> frozenset[str]:
    return frozenset(content_words(word))


def content_words(text: str) -> set[str]:
    """Words of at least four letters, without those that are common in docstrings."""
    return set(re.findall(r"[a-z]{4,}", text.casefold())) - _COMMON


def copa(documents: Sequence[Document]) -> list[dict]:
    """Which of two summaries is this text's? As COPA: `choice1`, `choice2`, `text`, `label`."""
    examples = []
    for pair in _pairs(documents):
        label = _bit(pair.document)
        choices = (pair.lure, pair.summary) if label else (pair.summary, pair.lure)
        example = dict(zip(_CHOICES, choices, strict=True))
        examples.append(example | {"text": pair.body, "label": label})
    return _numbered(examples)


def rte(documents: Sequence[Document]) -> list[dict]:
    """Does this summary belong to this text? As RTE: `summary`, `text`, `label`; half are 0."""
    # By turns, so that the classes are equal to one example.
    return _numbered(
        [
            {"summary": pair.lure if i % 2 else pair.summary, "text": pair.body, "label": i % 2}
            for i, pair in enumerate(_pairs(documents))
        ]
    )


def library(documents: Sequence[Document]) -> list[dict]:
    """Which library is this text from? Equally many of each of `LABELS`, names masked."""
    by_library = defaultdict(list)
    for document in documents:
        by_library[document.library].append(document)
    count = min(len(by_library[name]) for name in LABELS)
    # Class by class in turn: the first n examples are balanced, too.
    return _numbered(
        [
            {
                "text": shorten(
                    _MASKED.sub(MASK, by_library[name][i].text[: 2 * LONG_BODY_CHARACTERS]),
                    LONG_BODY_CHARACTERS,
                ),
                "label": label,
            }
            for i in range(count)
            for label, name in enumerate(LABELS)
        ]
    )


def summary(documents: Sequence[Document]) -> list[dict]:
    """The summary of this text: `text`, `summary`."""
    return [
        {"text": shorten(d.parts[1], LONG_BODY_CHARACTERS), "summary": d.parts[0]}
        for d in documents
        if len(d.parts[0]) in SUMMARY_CHARACTERS and _says_something(d)
    ]


def _numbered(examples: list[dict]) -> list[dict]:
    return [example | {"idx": i} for i, example in enumerate(examples)]


def _bit(document: Document) -> int:
    """A coin toss that is independent of the split, which uses the start of the key."""
    return int(document.key[-1], 16) % 2


def _says_something(document: Document) -> bool:
    body, head = (content_words(part) for part in reversed(document.parts))
    return len(head & body) >= DIFFICULTY.shared_words


def _pairs(documents: Sequence[Document]) -> Iterator[_Pair]:
    """The documents whose summary can be told from another's, each with such another."""
    usable = [d for d in documents if len(d.parts[0]) in SUMMARY_CHARACTERS]
    words = [content_words(d.parts[0]) for d in usable]
    for i, document in enumerate(usable):
        body = passage(document.parts[1], words[i], BODY_CHARACTERS)
        body_words = content_words(body)
        if len(words[i] & body_words) < DIFFICULTY.shared_words:
            continue
        # From a place that the document's hash gives: neighbours would pair up otherwise.
        start = int(document.key[-8:], 16)
        for step in range(_TRIES):
            j = (start + step) % len(usable)
            same = usable[j].library == document.library
            if j == i or same != DIFFICULTY.same_library:
                continue
            if len(words[j] & body_words) <= DIFFICULTY.lure_words:
                yield _Pair(document, document.parts[0], body, usable[j].parts[0])
                break


LABEL_NAMES = {"pydocs_copa": _CHOICES, "pydocs_rte": _ENTAILMENT, "pydocs_library": LABELS}
MAKERS = {
    "pydocs_copa": copa,
    "pydocs_rte": rte,
    "pydocs_library": library,
    "pydocs_summary": summary,
}

"""Labelled examples in the style of SuperGLUE, with labels derived from docstrings.

The examples of a split are made only from that split's documents. Pre-training also sees the train
documents, so only the validation documents are new to a fine-tuned model.
"""

import dataclasses
import functools
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from switch_tf.tasks.docstrings.parse import Document


@dataclasses.dataclass(frozen=True)
class Difficulty:
    """The difficulty of `copa` and `rte`.

    Attributes:
      same_library: whether the wrong summary comes from the same library, so that topic and style
        give nothing away.
      shared_words: minimum number of content words that the right summary must share with a passage
        of the body. More make examples easier but fewer.
      lure_words: maximum number that the wrong summary may share. More make examples harder.
    """

    same_library: bool
    shared_words: int
    lure_words: int


# Suits models and corpora of a few million parameters and tokens: the wrong summary comes from
# another library and shares no content word with the passage, so comparing words gets most examples
# right.
DIFFICULTY = Difficulty(same_library=False, shared_words=2, lure_words=0)
# Length of a passage: with two summaries, it mostly fits within 80 tokens of the default
# vocabulary.
PASSAGE_CHARACTERS = 60
LONG_BODY_CHARACTERS = 320
SUMMARY_CHARACTERS = range(15, 71)
# How much of a body is searched for passages, and how many passages of one document are used, each
# in its own example: more lower the risk of memorising them.
_SEARCHED_CHARACTERS = 1500
_PASSAGES = 6
_SUMMARY_PASSAGES = 2
# The largest libraries, except those with few validation documents: see `library`.
LABELS = ("tensorflow", "transformers", "scipy", "pandas", "sklearn", "matplotlib", "jax", "nltk")
# Names and usual abbreviations, which would give the label away.
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
# How many documents are tried as the partner in a pair.
_TRIES = 50
_ENTAILMENT = ("entailment", "not_entailment")


@dataclasses.dataclass(frozen=True)
class _Excerpt:
    """A document's summary, and a passage of its body that shares words with it."""

    library: str
    summary: str
    passage: str


def shorten(text: str, characters: int) -> str:
    """Joins a text to one line and cuts it at a word, to at most `characters` characters."""
    text = " ".join(text.split())
    if len(text) <= characters:
        return text
    return text[: characters + 1].rpartition(" ")[0] or text[:characters]


def passages(text: str, wanted: set[str], difficulty: Difficulty) -> list[str]:
    """The non-overlapping passages of a text with the most of the `wanted` words, best first.

    The text is joined to one line. Each passage consists of whole words and has at most
    `PASSAGE_CHARACTERS`. Returns at most `_PASSAGES`, all with at least `shared_words` of the
    words.
    """
    words = text[:_SEARCHED_CHARACTERS].split()
    found = [_content_of(word) & wanted for word in words]
    sizes = [len(word) + 1 for word in words]
    windows = []
    # For the words from `first` to `end`: the characters with trailing blanks, and the `wanted`
    # words.
    end, size, seen = 0, 0, Counter()
    for first in range(len(words)):
        while end < len(words) and size + sizes[end] <= PASSAGE_CHARACTERS + 1:
            size += sizes[end]
            for word in found[end]:
                seen[word] += 1
            end += 1
        if len(seen) >= difficulty.shared_words:
            windows.append((-len(seen), first, end))
        if end == first:
            # The word is longer than a passage.
            end += 1
            continue
        size -= sizes[first]
        for word in found[first]:
            seen[word] -= 1
            if not seen[word]:
                del seen[word]
    chosen = []
    for _, first, end in sorted(windows):
        if len(chosen) < _PASSAGES and all(end <= a or b <= first for a, b in chosen):
            chosen.append((first, end))
    return [" ".join(words[first:end]) for first, end in chosen]


# Cached, because the same few thousand words make up most of the corpus.
@functools.cache
def _content_of(word: str) -> frozenset[str]:
    return frozenset(content_words(word))


def content_words(text: str) -> set[str]:
    """The words of at least four letters that are not common in docstrings."""
    return set(re.findall(r"[a-z]{4,}", text.casefold())) - _COMMON


def copa(documents: Sequence[Document]) -> list[dict]:
    """Which of two summaries belongs to this text? Like COPA, with a row for each choice.

    Rows have `text`, `choice`, `is_correct`, `idx` of the question and `choice_idx`. Each pair of
    choices occurs twice, with a text of each, so that choices alone give nothing away.
    """
    questions = ((pair, i) for pair in _pairs(documents) for i in range(2))
    return [
        {
            "text": pair[i].passage,
            "choice": choice.summary,
            "is_correct": int(i == j),
            "idx": n,
            "choice_idx": j,
        }
        for n, (pair, i) in enumerate(questions)
        for j, choice in enumerate(pair)
    ]


def rte(documents: Sequence[Document]) -> list[dict]:
    """Does this summary belong to this text? Like RTE, with `summary`, `text` and `label`.

    Each summary and each text occurs once with each label.
    """
    return _numbered(
        [
            {"summary": pair[i].summary, "text": pair[j].passage, "label": int(i != j)}
            for pair in _pairs(documents)
            for i, j in ((0, 0), (1, 0), (1, 1), (0, 1))
        ]
    )


def library(documents: Sequence[Document]) -> list[dict]:
    """Which library is this text from? Balanced over `LABELS`, with library names masked."""
    by_library = defaultdict(list)
    for document in documents:
        by_library[document.library].append(document)
    count = min(len(by_library[name]) for name in LABELS)
    # Classes alternate, so that the first n examples are balanced, too.
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
    """Summarise this text: a `text` passage and the `summary` of its document."""
    rounds = _excerpts(tuple(documents), DIFFICULTY)[:_SUMMARY_PASSAGES]
    return _numbered([{"text": s.passage, "summary": s.summary} for r in rounds for s in r])


def _numbered(examples: list[dict]) -> list[dict]:
    return [example | {"idx": i} for i, example in enumerate(examples)]


# Cached, because three tasks use the same passages.
@functools.lru_cache(maxsize=2)
def _excerpts(documents: tuple[Document, ...], difficulty: Difficulty) -> list[list[_Excerpt]]:
    """Documents with their best passage, then documents with their second passage, and so on."""
    rounds = [[] for _ in range(_PASSAGES)]
    # Documents are ordered by hash, so neighbours are from different libraries.
    for document in documents:
        head, body = document.parts
        if len(head) in SUMMARY_CHARACTERS:
            for r, text in enumerate(passages(body, content_words(head), difficulty)):
                rounds[r].append(_Excerpt(document.library, head, text))
    return rounds


def _pairs(documents: Sequence[Document]) -> list[tuple[_Excerpt, _Excerpt]]:
    return _pairs_of(tuple(documents), DIFFICULTY)


# Cached, because two tasks use the same pairs.
@functools.lru_cache(maxsize=2)
def _pairs_of(
    documents: tuple[Document, ...], difficulty: Difficulty
) -> list[tuple[_Excerpt, _Excerpt]]:
    """Pairs of documents in which neither summary fits the other's passage."""
    found = []
    for shown in _excerpts(documents, difficulty):
        waiting = []
        for one in shown:
            for i, other in enumerate(waiting[:_TRIES]):
                if _differ(one, other):
                    found.append((waiting.pop(i), one))
                    break
            else:
                waiting.append(one)
    return found


def _differ(one: _Excerpt, other: _Excerpt) -> bool:
    if (one.library == other.library) != DIFFICULTY.same_library or one.summary == other.summary:
        return False
    return all(
        len(content_words(a.summary) & content_words(b.passage)) <= DIFFICULTY.lure_words
        for a, b in ((one, other), (other, one))
    )


# Task -> its answers, for the tasks that answer with a name.
LABEL_NAMES = {"pydocs_rte": _ENTAILMENT, "pydocs_library": LABELS}
MAKERS = {
    "pydocs_copa": copa,
    "pydocs_rte": rte,
    "pydocs_library": library,
    "pydocs_summary": summary,
}

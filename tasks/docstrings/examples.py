"""Labelled examples whose labels come from the docstrings themselves, in the manner of SuperGLUE.

Examples of a split are made of that split's documents only. Pre-training sees the train documents
too, so only the validation documents are new to a fine-tuned model.
"""

import dataclasses
import functools
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from switch_tf.tasks.docstrings.parse import Document


@dataclasses.dataclass(frozen=True)
class Difficulty:
    """How hard `copa` and `rte` are.

    Attributes:
      same_library: whether the wrong summary is of the same library, so that its topic and style
        give nothing away.
      shared_words: least number of content words that the right summary has in common with a
        passage of the body for it to be shown.
      lure_words: largest number that the wrong one has.
    """

    same_library: bool
    shared_words: int
    lure_words: int


# Set for models of a few million parameters and tokens: the wrong summary is of another library and
# shares no content word with the passage, so a model that only compares words gets most right.
DIFFICULTY = Difficulty(same_library=False, shared_words=2, lure_words=0)
# Shown of a body: with two summaries this is mostly within 80 tokens of the default vocabulary.
PASSAGE_CHARACTERS = 60
LONG_BODY_CHARACTERS = 320
SUMMARY_CHARACTERS = range(15, 71)
# Searched for passages to show, and the most that are shown of one document, in as many examples:
# few passages are learnt by heart.
_SEARCHED_CHARACTERS = 1500
_PASSAGES = 6
_SUMMARY_PASSAGES = 2
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
# Documents tried as the other of a pair.
_TRIES = 50
_ENTAILMENT = ("entailment", "not_entailment")


@dataclasses.dataclass(frozen=True)
class _Shown:
    """A document's summary, and a passage of its body that has words of the summary."""

    library: str
    summary: str
    passage: str


def shorten(text: str, characters: int) -> str:
    """`text` on one line, cut at the end of a word to at most `characters` characters."""
    text = " ".join(text.split())
    if len(text) <= characters:
        return text
    return text[: characters + 1].rpartition(" ")[0] or text[:characters]


def passages(text: str, wanted: set[str], difficulty: Difficulty) -> list[str]:
    """Parts of `text` that have most of the words `wanted`, best first; they do not overlap.

    Each starts and ends at words and has at most `PASSAGE_CHARACTERS`; a text is put on one line
    first. At most `_PASSAGES`, and only those with enough of the words to be shown.
    """
    words = text[:_SEARCHED_CHARACTERS].split()
    found = [_content_of(word) & wanted for word in words]
    sizes = [len(word) + 1 for word in words]
    windows = []
    # Of the words from `first` to `end`: their characters, a blank after each, and the `wanted`.
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
            # A word longer than a passage.
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


# The same few thousand words make up most of the corpus.
@functools.cache
def _content_of(word: str) -> frozenset[str]:
    return frozenset(content_words(word))


def content_words(text: str) -> set[str]:
    """Words of at least four letters, without those that are common in docstrings."""
    return set(re.findall(r"[a-z]{4,}", text.casefold())) - _COMMON


def copa(documents: Sequence[Document]) -> list[dict]:
    """Which of two summaries is this text's? As COPA, a row for each choice.

    `text`, `choice`, `is_correct`, `idx` of the question, `choice_idx`. Each two choices come
    twice, with a text of either: they give nothing away by themselves.
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
    """Does this summary belong to this text? As RTE: `summary`, `text`, `label`.

    Each summary and each text come once with either label.
    """
    return _numbered(
        [
            {"summary": pair[i].summary, "text": pair[j].passage, "label": int(i != j)}
            for pair in _pairs(documents)
            for i, j in ((0, 0), (1, 0), (1, 1), (0, 1))
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
    """The summary of this text: `text`, a passage near to it, and `summary`."""
    rounds = _shown(tuple(documents), DIFFICULTY)[:_SUMMARY_PASSAGES]
    return _numbered([{"text": s.passage, "summary": s.summary} for r in rounds for s in r])


def _numbered(examples: list[dict]) -> list[dict]:
    return [example | {"idx": i} for i, example in enumerate(examples)]


# Three tasks show the same passages.
@functools.lru_cache(maxsize=2)
def _shown(documents: tuple[Document, ...], difficulty: Difficulty) -> list[list[_Shown]]:
    """Documents with their best passage, then those that have a second, and so on."""
    rounds = [[] for _ in range(_PASSAGES)]
    # `documents` come by their hash: neighbours are not of one library.
    for document in documents:
        head, body = document.parts
        if len(head) in SUMMARY_CHARACTERS:
            for r, text in enumerate(passages(body, content_words(head), difficulty)):
                rounds[r].append(_Shown(document.library, head, text))
    return rounds


def _pairs(documents: Sequence[Document]) -> Iterator[tuple[_Shown, _Shown]]:
    """Two documents by two, such that the summary of neither fits the passage of the other."""
    for shown in _shown(tuple(documents), DIFFICULTY):
        waiting = []
        for one in shown:
            for i, other in enumerate(waiting[:_TRIES]):
                if _differ(one, other):
                    yield waiting.pop(i), one
                    break
            else:
                waiting.append(one)


def _differ(one: _Shown, other: _Shown) -> bool:
    if (one.library == other.library) != DIFFICULTY.same_library or one.summary == other.summary:
        return False
    return all(
        len(content_words(a.summary) & content_words(b.passage)) <= DIFFICULTY.lure_words
        for a, b in ((one, other), (other, one))
    )


# Of the tasks whose answer is a name.
LABEL_NAMES = {"pydocs_rte": _ENTAILMENT, "pydocs_library": LABELS}
MAKERS = {
    "pydocs_copa": copa,
    "pydocs_rte": rte,
    "pydocs_library": library,
    "pydocs_summary": summary,
}

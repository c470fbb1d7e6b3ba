import collections
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from switch_tf.tasks.docstrings import corpus, examples
from switch_tf.tasks.docstrings.examples import LABELS
from switch_tf.tasks.docstrings.parse import Document

ALPHA = "Adds the alpha, the bravo and the delta."
ALPHA_BODY = "An alpha, a bravo\n  and a delta are added."
HOTEL = "Sorts the hotels of india by order."
HOTEL_BODY = "Hotels of India in their order."


def document(summary, body, library="jax"):
    return Document(f"{summary}\n\n{body}", library, "name")


TWO = [document(ALPHA, ALPHA_BODY, "jax"), document(HOTEL, HOTEL_BODY, "nltk")]


@pytest.fixture
def documents(small_corpus):
    return corpus.documents("train")


ALPHA_TEXT = "An alpha, a bravo and a delta are added."


def summaries_by_text(documents):
    """Text -> the summaries of the documents whose body has it."""
    bodies = [(" ".join(d.parts[1].split()), d) for d in documents]
    return lambda text: {d.parts[0] for body, d in bodies if text in body}


def questions(documents):
    """(text, right summary, wrong summary) of the questions of copa."""
    rows = examples.copa(documents)
    assert [(row["idx"], row["choice_idx"]) for row in rows] == [
        (i, j) for i in range(len(rows) // 2) for j in range(2)
    ]
    for pair in zip(rows[::2], rows[1::2], strict=True):
        right, wrong = sorted(pair, key=lambda row: -row["is_correct"])
        assert right["is_correct"] == 1 and wrong["is_correct"] == 0
        assert right["text"] == wrong["text"]
        yield right["text"], right["choice"], wrong["choice"]


def test_copa_offers_the_summary_of_the_text_and_one_of_another():
    assert set(questions(TWO)) == {(ALPHA_TEXT, ALPHA, HOTEL), (HOTEL_BODY, HOTEL, ALPHA)}


def test_each_choice_of_copa_is_right_as_often_as_wrong_and_comes_first_as_often(documents):
    rows = examples.copa(documents)
    assert len(rows) > 1000
    labels = collections.defaultdict(list)
    for row in rows:
        labels[row["choice"]].append(row["is_correct"])
    assert all(2 * sum(values) == len(values) for values in labels.values())
    assert 4 * sum(row["is_correct"] for row in rows if row["choice_idx"] == 0) == len(rows)


def test_rte_has_each_summary_with_its_text_and_with_another():
    rows = examples.rte(TWO)
    assert {(e["summary"], e["text"]): e["label"] for e in rows} == {
        (ALPHA, ALPHA_TEXT): 0,
        (HOTEL, HOTEL_BODY): 0,
        (ALPHA, HOTEL_BODY): 1,
        (HOTEL, ALPHA_TEXT): 1,
    }
    assert [e["idx"] for e in rows] == list(range(4))


def test_a_part_of_an_example_alone_says_nothing_of_its_label(documents):
    for maker, columns in (
        (examples.rte, ("summary",)),
        (examples.rte, ("text",)),
    ):
        rows = maker(documents)
        assert len(rows) > 1000
        labels = collections.defaultdict(list)
        for example in rows:
            labels[tuple(example[name] for name in columns)].append(example["label"])
        assert all(2 * sum(values) == len(values) for values in labels.values())


def test_the_wrong_summary_is_of_another_library_and_shares_no_content_word(documents):
    # A summary of several libraries belongs to each of them.
    libraries = collections.defaultdict(set)
    for d in documents:
        libraries[d.parts[0]].add(d.library)
    for text, right, wrong in itertools.islice(questions(documents), 500):
        assert len(libraries[wrong] | libraries[right]) > 1
        words = examples.content_words(text)
        assert len(examples.content_words(right) & words) >= 2
        assert not examples.content_words(wrong) & words


def test_the_right_summary_is_that_of_the_text(documents):
    owners = summaries_by_text(documents)
    for text, right, _ in itertools.islice(questions(documents), 100):
        assert right in owners(text)
    for example in examples.summary(documents)[:100]:
        assert example["summary"] in owners(example["text"])


def test_a_harder_difficulty_takes_the_wrong_summary_from_the_same_library(documents, monkeypatch):
    harder = examples.Difficulty(same_library=True, shared_words=2, lure_words=1)
    monkeypatch.setattr(examples, "DIFFICULTY", harder)
    libraries = collections.defaultdict(set)
    for d in documents:
        libraries[d.parts[0]].add(d.library)
    found = list(questions(documents))
    assert found
    assert all(libraries[right] & libraries[wrong] for _, right, wrong in found)


def test_passages_do_not_overlap_and_the_best_comes_first():
    words = {"alpha", "bravo", "delta"}
    text = "alpha bravo " + "x " * 60 + "alpha bravo\ndelta " + "y " * 60 + "delta " + "z " * 60
    easy = examples.DIFFICULTY
    found = examples.passages(text, words, easy)
    assert [len(words & set(passage.split())) for passage in found] == [3, 2]
    assert all(len(p) <= examples.PASSAGE_CHARACTERS for p in found)
    assert all(p in " ".join(text.split()) for p in found)
    assert examples.passages(text, {"alpha"}, easy) == []
    assert examples.passages("", words, easy) == []


@pytest.mark.parametrize(
    "documents",
    [
        [],
        TWO[:1],
        # One library.
        [document(ALPHA, ALPHA_BODY), document(HOTEL, HOTEL_BODY)],
        # Summaries with fewer than two words of their bodies.
        [document(ALPHA, HOTEL_BODY), document(HOTEL, ALPHA_BODY, "nltk")],
        # The other summary has a word of the body.
        [document(ALPHA, ALPHA_BODY + HOTEL_BODY), document(HOTEL, HOTEL_BODY + "Bravo.", "nltk")],
        # Summaries too short and too long.
        [document("Alpha, bravo.", ALPHA_BODY), document(HOTEL[:-1] * 4 + ".", HOTEL_BODY, "a")],
    ],
)
def test_documents_that_cannot_be_told_apart_give_no_example(documents):
    assert examples.copa(documents) == examples.rte(documents) == []


def test_library_has_each_label_equally_often_and_in_turn(documents):
    rows = examples.library(documents)
    assert [e["label"] for e in rows] == list(range(len(LABELS))) * (len(rows) // 8)
    assert [e["idx"] for e in rows] == list(range(len(rows)))
    libraries = {
        examples.shorten(d.text, examples.LONG_BODY_CHARACTERS): d.library for d in documents
    }
    assert all(libraries[e["text"]] == LABELS[e["label"]] for e in rows)
    counts = collections.Counter(d.library for d in documents)
    assert len(rows) == 8 * min(counts.values())


@pytest.mark.parametrize(
    "text, masked",
    [
        ("TensorFlow, tensorflow_text and tf.data", "_, __text and _.data"),
        ("Hugging Face and huggingface Transformers", "_ and _ _"),
        ("scikit-learn, sklearn, SciPy, sp.stats", "_, _, _, _.stats"),
        ("np.array, numpy, jnp, jaxlib, plt, pyplot", "_.array, _, _, _lib, _, _"),
        ("pandas, pd.DataFrame, nltk, keras", "_, _.DataFrame, _, _"),
        ("input of tfx", "input of tfx"),
    ],
)
def test_names_that_give_the_library_away_are_masked(text, masked):
    rows = examples.library([Document(text, name, "n") for name in LABELS])
    assert [e["text"] for e in rows] == [masked] * len(LABELS)


def test_a_library_without_documents_leaves_no_example():
    assert examples.library([Document("text", name, "n") for name in LABELS[1:]]) == []


def test_summary_pairs_the_passage_with_its_summary():
    rows = examples.summary([*TWO, document(ALPHA, HOTEL_BODY)])
    assert {(e["text"], e["summary"]) for e in rows} == {
        (ALPHA_TEXT, ALPHA),
        (HOTEL_BODY, HOTEL),
    }


@settings(max_examples=200, deadline=None, derandomize=True)
@given(text=st.text("ab \n\t"), characters=st.integers(1, 30))
def test_a_shortened_text_is_one_line_cut_at_the_end_of_a_word(text, characters):
    words, short = text.split(), examples.shorten(text, characters)
    assert len(short) <= characters
    if words and len(words[0]) > characters:
        assert short == words[0][:characters]
    else:
        kept = short.split()
        assert short == " ".join(kept) and kept == words[: len(kept)]
        # As many words as there is room for.
        assert kept == words or len(" ".join(words[: len(kept) + 1])) > characters


def test_content_words_are_long_lower_case_and_not_common():
    text = "This Array, which_has more Values than 4th arrays: return them."
    assert examples.content_words(text) == {"array", "arrays"}

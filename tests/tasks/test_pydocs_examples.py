import collections

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import pydocs_corpus, pydocs_examples
from tasks.pydocs_examples import LABELS
from tasks.pydocs_parse import Document

ALPHA = "Adds the alpha, the bravo and the delta."
ALPHA_BODY = "An alpha, a bravo\n  and a delta are added."
HOTEL = "Sorts the hotels of india by order."
HOTEL_BODY = "Hotels of India in their order."


def document(summary, body, library="jax"):
    return Document(f"{summary}\n\n{body}", library, "name")


TWO = [document(ALPHA, ALPHA_BODY, "jax"), document(HOTEL, HOTEL_BODY, "nltk")]


@pytest.fixture
def documents(corpus):
    return pydocs_corpus.documents("train")


def by_body(documents):
    return {
        pydocs_examples.shorten(d.parts[1], pydocs_examples.BODY_CHARACTERS): d for d in documents
    }


def test_copa_offers_the_summary_of_the_text_and_one_of_another():
    examples = pydocs_examples.copa(TWO)
    assert [e["text"] for e in examples] == ["An alpha, a bravo and a delta are added.", HOTEL_BODY]
    assert [e["idx"] for e in examples] == [0, 1]
    for example, summary in zip(examples, (ALPHA, HOTEL), strict=True):
        assert {example["choice1"], example["choice2"]} == {ALPHA, HOTEL}
        assert example["choice2" if example["label"] else "choice1"] == summary


def test_the_labels_of_copa_are_a_coin_toss_that_the_text_decides(documents):
    examples = pydocs_examples.copa(documents)
    assert len(examples) > 1000
    assert 0.45 < sum(e["label"] for e in examples) / len(examples) < 0.55
    labels = {e["text"]: e["label"] for e in examples}
    again = pydocs_examples.copa(list(reversed(documents[:500])))
    assert again and all(labels[e["text"]] == e["label"] for e in again)


def test_rte_has_the_right_summary_and_a_wrong_one_by_turns():
    first, second = pydocs_examples.rte(TWO)
    assert first == {
        "summary": ALPHA,
        "text": "An alpha, a bravo and a delta are added.",
        "label": 0,
        "idx": 0,
    }
    assert second == {"summary": ALPHA, "text": HOTEL_BODY, "label": 1, "idx": 1}


def test_the_classes_of_rte_are_equal_to_one_example(documents):
    count = collections.Counter(e["label"] for e in pydocs_examples.rte(documents))
    assert abs(count[0] - count[1]) <= 1 and count[0] > 500


def test_the_wrong_summary_is_of_another_library_and_shares_no_content_word(documents):
    owners = by_body(documents)
    libraries = {d.parts[0]: d.library for d in documents}
    for example in pydocs_examples.copa(documents):
        right, wrong = example["choice1"], example["choice2"]
        if example["label"]:
            right, wrong = wrong, right
        assert right == owners[example["text"]].parts[0]
        assert libraries[wrong] != libraries[right]
        body_words = pydocs_examples.content_words(example["text"])
        assert len(pydocs_examples.content_words(right) & body_words) >= 2
        assert not pydocs_examples.content_words(wrong) & body_words


def test_a_harder_difficulty_takes_the_wrong_summary_from_the_same_library(documents, monkeypatch):
    harder = pydocs_examples.Difficulty(same_library=True, shared_words=2, lure_words=1)
    monkeypatch.setattr(pydocs_examples, "DIFFICULTY", harder)
    owners = by_body(documents)
    libraries = {d.parts[0]: d.library for d in documents}
    wrong = [e for e in pydocs_examples.rte(documents) if e["label"]]
    assert wrong
    for example in wrong:
        assert libraries[example["summary"]] == owners[example["text"]].library
        assert example["summary"] != owners[example["text"]].parts[0]


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
        [document("Alpha and bravo.", ALPHA_BODY), document(HOTEL[:-1] * 4 + ".", HOTEL_BODY, "a")],
    ],
)
def test_documents_that_cannot_be_told_apart_give_no_example(documents):
    assert pydocs_examples.copa(documents) == pydocs_examples.rte(documents) == []


def test_library_has_each_label_equally_often_and_in_turn(documents):
    examples = pydocs_examples.library(documents)
    assert [e["label"] for e in examples] == list(range(len(LABELS))) * (len(examples) // 8)
    assert [e["idx"] for e in examples] == list(range(len(examples)))
    libraries = {
        pydocs_examples.shorten(d.text, pydocs_examples.LONG_BODY_CHARACTERS): d.library
        for d in documents
    }
    assert all(libraries[e["text"]] == LABELS[e["label"]] for e in examples)
    counts = collections.Counter(d.library for d in documents)
    assert len(examples) == 8 * min(counts.values())


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
    examples = pydocs_examples.library([Document(text, name, "n") for name in LABELS])
    assert [e["text"] for e in examples] == [masked] * len(LABELS)


def test_a_library_without_documents_leaves_no_example():
    assert pydocs_examples.library([Document("text", name, "n") for name in LABELS[1:]]) == []


def test_summary_pairs_the_body_with_its_summary():
    assert pydocs_examples.summary([*TWO, document(ALPHA, HOTEL_BODY)]) == [
        {"text": "An alpha, a bravo and a delta are added.", "summary": ALPHA},
        {"text": HOTEL_BODY, "summary": HOTEL},
    ]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(text=st.text("ab \n\t"), characters=st.integers(1, 30))
def test_a_shortened_text_is_one_line_cut_at_the_end_of_a_word(text, characters):
    words, short = text.split(), pydocs_examples.shorten(text, characters)
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
    assert pydocs_examples.content_words(text) == {"array", "arrays"}

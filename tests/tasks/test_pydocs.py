import numpy as np
import pytest
import seqio
import tensorflow as tf
from t5.evaluation import metrics

from switch_tf.data import features
from switch_tf.tasks import pydocs
from switch_tf.tasks.docstrings import corpus, examples
from tests.helpers import task_data

LENGTHS = {"inputs": 256, "targets": 64}
SUPERVISED = tuple(examples.MAKERS)
CLASSIFIED = tuple(examples.LABEL_NAMES)


def source(name):
    return seqio.TaskRegistry.get(name).source


def prepared(name, split="validation", **kwargs):
    task = seqio.get_mixture_or_task(name)
    return task.get_dataset(LENGTHS, split, seed=0, **kwargs).as_numpy_iterator()


def ids(dataset):
    """Numbers of examples; of copa, where all rows are right, those of questions."""
    return [int(example["idx"]) for example in dataset.as_numpy_iterator()]


@pytest.mark.parametrize("name", ["pydocs_span_corruption", *SUPERVISED])
def test_no_text_of_a_validation_example_is_in_train(small_corpus, name):
    seen = [set(source(name).columns(split)["text"]) for split in ("train", "validation")]
    assert all(seen) and not seen[0] & seen[1]


def test_all_documents_are_for_pre_training(small_corpus):
    texts = [d.text.encode() for d in corpus.documents("train")]
    assert list(source("pydocs_span_corruption").columns("train")["text"]) == texts


def test_the_first_examples_of_validation_are_kept(small_corpus, monkeypatch):
    everything = examples.rte(corpus.documents("validation"))
    monkeypatch.setattr(pydocs, "_MAX_VALIDATION", 8)
    for name in SUPERVISED:
        rows = 8 * (2 if name == "pydocs_copa" else 1)
        assert source(name).num_input_examples("validation") == rows
        assert source(name).num_input_examples("train") > 1000
    kept = source("pydocs_rte").columns("validation")["summary"]
    assert [text.decode() for text in kept] == [e["summary"] for e in everything[:8]]


def test_the_labels_of_the_validation_examples_are_balanced(small_corpus, monkeypatch):
    monkeypatch.setattr(pydocs, "_MAX_VALIDATION", 8)
    labels = source("pydocs_library").columns("validation")["label"]
    assert np.bincount(labels).tolist() == [1] * 8
    labels = source("pydocs_rte").columns("validation")["label"]
    assert np.bincount(labels).tolist() == [4, 4]


@pytest.mark.parametrize(
    "name, form",
    [
        ("pydocs_copa", "pydocs_copa text: {text}"),
        ("pydocs_rte", "pydocs_rte summary: {summary} text: {text}"),
        ("pydocs_library", "pydocs_library text: {text}"),
        ("pydocs_summary", "summarize: {text}"),
    ],
)
def test_inputs_and_targets_are_texts_in_the_form_of_t5(small_corpus, name, form):
    columns = source(name).columns("validation")
    found = list(prepared(name, shuffle=False))
    assert len(found) == source(name).num_input_examples("validation") > 0
    for i, example in enumerate(found):
        row = {k: v[i].decode() if isinstance(v[i], bytes) else v[i] for k, v in columns.items()}
        assert example["inputs_pretokenized"].decode() == form.format(**row)
        label_names = examples.LABEL_NAMES.get(name)
        answer = row.get("choice", row.get("summary"))
        target = label_names[row["label"]] if label_names else answer
        assert example["targets_pretokenized"].decode() == target
        tokens = pydocs.VOCABULARY.encode(target)
        assert example["targets"].tolist() == [*tokens, pydocs.VOCABULARY.eos_id]


@pytest.mark.parametrize("name", CLASSIFIED)
def test_a_label_becomes_its_class_and_other_text_none(name):
    task = seqio.TaskRegistry.get(name)
    labels = examples.LABEL_NAMES[name]
    assert [task.postprocess_fn(label) for label in labels] == list(range(len(labels)))
    assert task.postprocess_fn("of no class") == task.postprocess_fn("") == -1


def test_choices_to_train_on_are_right_and_those_to_rank_have_their_rival(small_corpus):
    assert source("pydocs_copa").columns("train")["is_correct"].all()
    columns = source("pydocs_copa").columns("validation")
    assert columns["is_correct"].reshape(-1, 2).sum(axis=1).tolist() == [1] * (
        len(columns["idx"]) // 2
    )


def test_wrong_choices_do_not_count_in_teacher_forced_evaluation(small_corpus):
    found = [e["decoder_target_tokens"] for e in examples_of_evaluation("pydocs_copa")]
    columns = source("pydocs_copa").columns("validation")
    rows = np.concatenate(found)
    assert (rows.any(axis=1)).sum() == columns["is_correct"].sum() == len(columns["idx"]) // 2


def examples_of_evaluation(name):
    return features.eval_dataset(
        task_data(name, LENGTHS, 16, split="validation")
    ).as_numpy_iterator()


def test_the_choice_with_the_likelier_tokens_is_taken(small_corpus):
    task = seqio.TaskRegistry.get("pydocs_copa")
    found = list(prepared("pydocs_copa"))
    targets = [task.postprocess_fn(0.0, example=e, is_target=True) for e in found]
    lengths = np.array([len(e["targets"]) for e in found])
    right = np.array([e["is_correct"] for e in found])
    (metric,) = task.metric_fns
    # Nats of a whole answer: per token, twice as many for a right one, or as few.
    for per_token, accuracy in ((-2.0 + right, 100), (-1.0 - right, 0)):
        assert metric(targets, list(per_token * lengths)) == {"accuracy": accuracy}


@pytest.mark.parametrize("name", (*CLASSIFIED, "pydocs_summary"))
def test_perfect_predictions_have_100_and_empty_ones_0(small_corpus, name):
    task = seqio.TaskRegistry.get(name)
    texts = [e["targets_pretokenized"].decode() for e in prepared(name)]
    targets = [task.postprocess_fn(text, is_target=True) for text in texts]
    (metric,) = task.metric_fns
    for answers, score in ((texts, 100), ([""] * len(texts), 0)):
        found = metric(targets, [task.postprocess_fn(answer) for answer in answers])
        assert found and set(found.values()) == {score}


def test_the_mixture_gives_examples_of_all_its_tasks(small_corpus):
    mixture = seqio.MixtureRegistry.get("pydocs_finetune")
    assert {task.name for task in mixture.tasks} == set(SUPERVISED)
    dataset = mixture.get_dataset(LENGTHS, "train", seed=0).take(200)
    inputs = [example["inputs"].tolist() for example in dataset.as_numpy_iterator()]
    prefixes = [
        pydocs.VOCABULARY.encode(text) for text in ("pydocs_copa", *CLASSIFIED, "summarize:")
    ]
    counts = [sum(ids[: len(prefix)] == prefix for ids in inputs) for prefix in prefixes]
    assert sum(counts) == 200 and min(counts) > 2


def test_span_corruption_fills_the_lengths_and_ends(small_corpus):
    lengths = {"inputs": 64, "targets": 14}
    task = seqio.TaskRegistry.get("pydocs_span_corruption")
    found = list(task.get_dataset(lengths, "train", seed=0).take(10).as_numpy_iterator())
    for name, length in lengths.items():
        assert {(len(e[name]), e[name][-1]) for e in found} == {(length, 1)}


def test_the_order_is_new_in_each_epoch_and_the_seed_decides_it(small_corpus):
    pydocs_rte = source("pydocs_rte")
    count = pydocs_rte.num_input_examples("validation")
    two_epochs = ids(pydocs_rte.get_dataset("validation", seed=1).repeat(2))
    first, second = two_epochs[:count], two_epochs[count:]
    assert sorted(first) == sorted(second) == list(range(count))
    assert len({tuple(order) for order in (first, second, range(count))}) == 3
    assert ids(pydocs_rte.get_dataset("validation", seed=1)) == first
    assert ids(pydocs_rte.get_dataset("validation", seed=2)) != first
    assert ids(pydocs_rte.get_dataset("validation", shuffle=False)) == list(range(count))


def test_hosts_share_the_examples(small_corpus):
    pydocs_rte = source("pydocs_rte")
    shards = [
        ids(pydocs_rte.get_dataset("validation", shard_info=seqio.ShardInfo(i, 3)))
        for i in range(3)
    ]
    assert sorted(sum(shards, [])) == list(range(pydocs_rte.num_input_examples("validation")))
    assert all(shards)


def test_a_checkpoint_restores_the_position(small_corpus, tmp_path):
    iterator = iter(source("pydocs_rte").get_dataset("train", seed=1))
    for _ in range(100):
        next(iterator)
    path = tf.train.Checkpoint(iterator=iterator).write(str(tmp_path / "position"))
    expected = [int(next(iterator)["idx"]) for _ in range(100)]
    restored = iter(source("pydocs_rte").get_dataset("train", seed=1))
    tf.train.Checkpoint(iterator=restored).read(path).assert_consumed()
    assert [int(next(restored)["idx"]) for _ in range(100)] == expected


def test_another_cache_has_its_own_examples(small_corpus, monkeypatch, tmp_path):
    before = source("pydocs_rte").columns("train")
    monkeypatch.setattr(corpus, "prepare", lambda: tmp_path)
    monkeypatch.setattr(corpus, "documents", lambda split: [])
    monkeypatch.setitem(examples.MAKERS, "pydocs_rte", lambda _: [{"text": "a", "label": 1}])
    after = source("pydocs_rte").columns("train")
    assert len(before["text"]) > 1000 and after["text"].tolist() == [b"a"]


@pytest.fixture
def chance(monkeypatch):
    """The chance levels for given labels and summaries."""

    def levels(labels, train, validation):
        def columns(self, split):
            summaries = {"train": train, "validation": validation}[split]
            return {
                "label": np.array(labels if split == "validation" else [0]),
                "is_correct": np.array([0, 1, 0, 0]),
                "summary": np.array([text.encode() for text in summaries], object),
            }

        monkeypatch.setattr(pydocs.PydocsSource, "columns", columns)
        return pydocs.chance_levels()

    return levels


@pytest.mark.parametrize(
    "labels, percent", [([0, 1, 1, 1], 75), ([2, 0, 1], 100 / 3), ([1, 1], 100)]
)
def test_the_chance_level_of_accuracy_is_the_share_of_the_most_frequent_class(
    chance, labels, percent
):
    levels = chance(labels, ["a"], ["a"])
    assert set(levels) == set(SUPERVISED)
    assert [levels[name] for name in CLASSIFIED] == [{"accuracy": pytest.approx(percent)}] * 2
    # One right choice in four.
    assert levels["pydocs_copa"] == {"accuracy": 25}


@pytest.mark.parametrize(
    "train, rouge1",
    [
        # The best constant: two of two words are in each target of three, F = 80%.
        (["blue", "red cat", "red"], 80),
        # Another document's summary: two of three words.
        (["blue"], 200 / 3),
        # Constants after the first twenty are not tried.
        (["blue"] * 20 + ["red cat"], 200 / 3),
    ],
)
def test_the_chance_level_of_rouge_is_that_of_the_best_blind_answer(chance, train, rouge1):
    level = chance([0], train, ["red cat sat", "red cat ran"])["pydocs_summary"]
    assert set(level) == set(metrics.rouge(["a"], ["a"]))
    assert level["rouge1"] == pytest.approx(rouge1)

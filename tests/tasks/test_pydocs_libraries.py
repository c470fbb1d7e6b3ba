import seqio

from switch_tf.tasks import pydocs_libraries
from switch_tf.tasks.docstrings import corpus, examples


def test_each_library_has_its_own_documents(small_corpus):
    for library in examples.LABELS:
        task = seqio.TaskRegistry.get(f"pydocs_libraries.{library}")
        for split in ("train", "validation"):
            texts = [d.text.encode() for d in corpus.documents(split) if d.library == library]
            assert texts and list(task.source.columns(split)["text"]) == texts
            assert task.source.num_input_examples(split) == len(texts)


def test_small_libraries_are_seen_more_often_than_their_share(small_corpus):
    mixture = seqio.MixtureRegistry.get("pydocs_libraries")
    assert {task.name for task in mixture.tasks} == set(pydocs_libraries.TASKS)
    for task in mixture.tasks:
        count = task.source.num_input_examples("train")
        assert mixture.get_rate(task) == count**0.3
    examples = mixture.get_dataset({"inputs": 32, "targets": 12}, "validation", seed=0)
    for example in examples.take(3).as_numpy_iterator():
        assert example["inputs"].size and example["targets"].size

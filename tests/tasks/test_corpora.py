"""C4 and mC4 from shards of JSON lines."""

import gzip
import json

import gin
import pytest
import seqio

from switch_tf.data import features, registry
from switch_tf.errors import UserError
from switch_tf.tasks import c4, mc4
from switch_tf.tasks.vocabulary.t5 import MT5_OUTPUT_FEATURES, T5_OUTPUT_FEATURES
from tests.helpers import on_ram

LENGTHS = {"inputs": 16, "targets": 8}


@pytest.fixture(autouse=True)
def _forget_gin():
    yield
    gin.clear_config()


def configure(**values):
    with gin.unlock_config():
        for name, value in values.items():
            gin.bind_parameter(name if "." in name else f"%{name}", value)


def write(path, texts, bad=()):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"text": text, "timestamp": "t", "url": "u"}) for text in texts]
    path.write_bytes(gzip.compress("".join(line + "\n" for line in [*lines, *bad]).encode()))


@pytest.fixture
def shards(tmp_path):
    """C4 and three languages of mC4 as published, under DATA_DIR."""
    for number in range(2):
        name = f"en/c4-train.0000{number}-of-00002.json.gz"
        write(tmp_path / name, [f"text {number} {i}" for i in range(5)])
    write(tmp_path / "en/c4-validation.00000-of-00001.json.gz", ["a text to validate"])
    for language, count in {"de": 16, "fr": 4, "sw": 1}.items():
        for name, texts in (
            ("", [f"{language} {i}" for i in range(count)]),
            ("-validation", ["v"]),
        ):
            path = f"multilingual/c4-{language}{name}.tfrecord-00000-of-00001.json.gz"
            write(tmp_path / path, texts)
    configure(DATA_DIR=str(tmp_path))
    return tmp_path


def texts(name, split="train"):
    source = seqio.TaskRegistry.get(name).source
    dataset = source.get_dataset(split, shuffle=False)
    return sorted(example["text"].decode() for example in dataset.as_numpy_iterator())


def test_c4_is_read_from_its_published_shards(shards):
    assert texts("c4_span_corruption") == sorted(
        f"text {n} {i}" for n in range(2) for i in range(5)
    )
    assert texts("c4_span_corruption", "validation") == ["a text to validate"]
    source = seqio.TaskRegistry.get("c4_span_corruption").source
    assert source.num_input_examples("train") == 10
    assert len(source.list_shards("train")) == 2


def test_patterns_go_before_the_folder(shards):
    configure(**{"c4.train": f"{shards}/en/c4-train.00001*"})
    assert texts("c4_span_corruption") == [f"text 1 {i}" for i in range(5)]


def test_shards_on_a_remote_file_system_are_read_from_a_folder_and_by_a_pattern(shards):
    source = seqio.TaskRegistry.get("c4_span_corruption").source
    local = {name: texts(name) for name in ("c4_span_corruption", "mc4.de")}
    with on_ram(shards) as folder:
        configure(DATA_DIR=folder)
        assert {name: texts(name) for name in local} == local
        assert source.missing() is None
        there = [t.name for t in seqio.MixtureRegistry.get("mc4").tasks if "train" in t.splits]
        assert there == ["mc4.de", "mc4.fr", "mc4.sw"]
        configure(**{"c4.train": f"{folder}/en/c4-train.00001*"})
        assert texts("c4_span_corruption") == [f"text 1 {i}" for i in range(5)]
        configure(**{"c4.train": f"{folder}/en/no*"})
        assert source.missing() == f"{folder}/en/no*"
        with pytest.raises(UserError, match=r"no file matches ram://.*/en/no\*, the shards of c4"):
            source.shards("train")


def test_shards_that_are_not_there_are_told(tmp_path):
    configure(DATA_DIR=str(tmp_path))
    told = r"no file matches .*en/c4-train.\*.json.gz.*DATA_DIR.*c4.train to a pattern"
    with pytest.raises(UserError, match=told):
        registry.prepare(seqio.TaskRegistry.get("c4_span_corruption"))


def test_a_hundred_and_one_languages_and_scripts():
    assert len({language.removesuffix("-Latn") for language in mc4.LANGUAGES}) == 101
    assert {mc4.task_name(language) for language in mc4.LANGUAGES} <= set(
        seqio.TaskRegistry.names()
    )


def test_mixture_has_the_languages_whose_shards_are_there(shards):
    mixture = seqio.MixtureRegistry.get("mc4")
    there = [task.name for task in mixture.tasks if "train" in task.splits]
    assert there == ["mc4.de", "mc4.fr", "mc4.sw"]
    assert {"train", "validation"} <= set(mixture.splits)


def test_rates_are_counts_of_documents_to_a_power(shards):
    mixture = seqio.MixtureRegistry.get("mc4")

    def rates():
        return [mixture.get_rate(seqio.TaskRegistry.get(f"mc4.{name}")) for name in ("de", "fr")]

    assert rates() == pytest.approx([16**0.3, 4**0.3])
    configure(**{"mc4.temperature": 2.0})
    assert rates() == pytest.approx([4.0, 2.0])
    assert mixture.get_rate(seqio.TaskRegistry.get("mc4.zu")) == 0.0


def test_languages_of_gin_alone_are_read_and_must_be_there(shards):
    configure(**{"mc4.languages": ["fr", "zu"]})
    tasks = seqio.MixtureRegistry.get("mc4").tasks
    assert [task.name for task in tasks if "train" in task.splits] == ["mc4.fr", "mc4.zu"]
    with pytest.raises(UserError, match="c4-zu"):
        registry.prepare(seqio.TaskRegistry.get("mc4.zu"))
    configure(**{"mc4.languages": ["french"]})
    with pytest.raises(UserError, match="unknown language 'french'"):
        mc4.settings()


def test_a_pattern_with_the_language_in_it(shards):
    write(shards / "mine/sw-train.json.gz", ["habari"])
    configure(**{"mc4.train": f"{shards}/mine/{{language}}-train.json.gz"})
    assert texts("mc4.sw") == ["habari"]


@pytest.mark.parametrize("value", [0.5, "x", True])
def test_temperature_is_a_number_of_at_least_one(value):
    configure(**{"mc4.temperature": value})
    with pytest.raises(UserError, match="mc4.temperature="):
        mc4.settings()


@pytest.mark.parametrize("name", ["c4_span_corruption", "mc4.en", "mc4.zu"])
def test_without_local_files_tfds_has_it(name):
    """The network is not touched to know of it."""
    source = seqio.TaskRegistry.get(name).source
    assert source.tfds_name.startswith("c4/") and source.splits == ("train", "validation")
    features = T5_OUTPUT_FEATURES if name.startswith("c4") else MT5_OUTPUT_FEATURES
    assert seqio.TaskRegistry.get(name).output_features == features
    assert c4.patterns() == {"train": None, "validation": None}


def test_bad_lines_stop_or_are_left_out_and_counted(shards, capfd):
    path = shards / "en/c4-train.00001-of-00002.json.gz"
    write(path, ["good"], bad=["{no json", '{"url": "u"}', '{"text": "last"}'])
    source = seqio.TaskRegistry.get("c4_span_corruption").source
    with pytest.raises(UserError, match=f"{path}:2: not JSON"):
        source.prepare()
    configure(BAD_DATA="skip")
    source.prepare()
    assert (
        f"{path}: 2 lines skipped (BAD_DATA='skip'), the first: {path}:2" in capfd.readouterr().out
    )
    assert [t for t in texts("c4_span_corruption") if "text" not in t] == ["good", "last"]
    assert f"{path}: 2 lines skipped" in capfd.readouterr().err


def test_each_language_is_evaluated_by_itself(shards, monkeypatch):
    monkeypatch.setattr(features, "check_vocabulary", lambda *_: None)
    datasets = registry.find("mc4")
    names = [task.name for task in datasets.tasks if "validation" in task.splits]
    assert names == ["mc4.de", "mc4.fr", "mc4.sw"]

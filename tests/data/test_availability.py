import os

import gin
import pytest
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from switch_tf import storage
from switch_tf.data import availability, registry
from switch_tf.errors import UserError

# Imported for the tasks that they register.
from switch_tf.tasks import c4, mc4, pydocs, summarization, super_glue  # noqa: F401
from tests.tasks.official_files import set_macros

BOOLQ = "super_glue/boolq:1.0.2"


@pytest.fixture(autouse=True)
def tfds_folder(tmp_path, monkeypatch):
    """An empty folder in the place of ~/tensorflow_datasets, and no gin."""
    monkeypatch.setattr(tfds.core.utils.file_utils.constants, "DATA_DIR", str(tmp_path / "tfds"))
    yield tmp_path / "tfds"
    gin.clear_config()


def prepare(folder, name):
    (folder / name).mkdir(parents=True)
    (folder / name / "dataset_info.json").write_text("{}")


def read(split, shuffle_files):
    """What a function of a source is called with."""
    return tf.data.Dataset.range(1)


@pytest.mark.parametrize(
    "name, prepared, is_there",
    [
        (BOOLQ, "super_glue/boolq/1.0.2", True),
        (BOOLQ, "super_glue/boolq/1.0.3", False),
        (BOOLQ, "super_glue/cb/1.0.2", False),
        ("super_glue/boolq:1.*.*", "super_glue/boolq/1.0.3", True),
        ("xsum:1.1.0", "xsum/1.1.0", True),
        ("wmt:1.0.0", "wmt/some_default/1.0.0", True),
        ("xsum:1.1.0", "xsum_other/1.1.0", False),
    ],
)
def test_what_tfds_has_prepared_is_seen_by_its_folder(tfds_folder, name, prepared, is_there):
    prepare(tfds_folder, prepared)
    state = "yes" if is_there else "no: not prepared by TFDS"
    source = seqio.TfdsDataSource(name, splits=["train"])
    assert (availability.describe(source), availability.state(source)) == (name, state)


def test_a_source_of_tfds_may_have_a_folder_or_datasets_of_its_own(tmp_path):
    prepare(tmp_path / "own", "xsum/1.1.0")
    own = str(tmp_path / "own")
    source = seqio.TfdsDataSource("xsum:1.1.0", tfds_data_dir=own, splits=["train"])
    assert availability.state(source) == "yes"
    split = seqio.TfdsSplit(dataset="xsum:1.1.0", split="train", data_dir=own)
    other = seqio.TfdsSplit(dataset="squad:1.0.0", split="train", data_dir=own)
    source = seqio.TfdsDataSource(splits={"train": split, "validation": split})
    assert (availability.describe(source), availability.state(source)) == ("xsum:1.1.0", "yes")
    source = seqio.TfdsDataSource(splits={"train": split, "validation": other})
    assert availability.describe(source) == "xsum:1.1.0, squad:1.0.0"
    assert availability.state(source) == "no: not prepared by TFDS"


def test_files_are_looked_for(tmp_path):
    (tmp_path / "a.tsv").write_text("a")
    names = [f"{tmp_path}/{name}" for name in ("*.tsv", "b.txt", "c.txt")]
    source = seqio.TextLineDataSource(dict(zip(["train", "dev", "test"], names, strict=True)))
    assert availability.describe(source) == ", ".join(names)
    assert availability.state(source) == f"no: {names[1]} and 1 more"
    source = seqio.TextLineDataSource({"train": [names[0]]})
    assert availability.state(source) == "yes"


def test_a_files_name_is_not_taken_for_a_pattern_of_others(tmp_path):
    named, other = tmp_path / "a[1].tsv", tmp_path / "a1.tsv"
    for path in (named, other):
        path.write_text("a\tb\n")
    escaped = f"{tmp_path}/a[[]1].tsv"
    for train in (str(named), [str(other), str(named)]):
        with pytest.raises(UserError) as told:
            availability.prepare(seqio.TextLineDataSource({"train": train}))
        assert str(told.value) == (
            f"{named}: this file's name is a pattern to SeqIO, which reads other files: rename it, "
            f"or write '{escaped}'"
        )
    source = seqio.TextLineDataSource({"train": escaped})
    availability.prepare(source)
    assert source.list_shards("train") == [str(named)]
    # Patterns stay patterns, also of what is not there.
    for pattern in (f"{tmp_path}/a[0-9].tsv", f"{tmp_path}/*.tsv", f"{tmp_path}/b[1].tsv"):
        availability.prepare(seqio.TextLineDataSource({"train": pattern}))


def test_an_address_is_not_looked_up():
    source = seqio.TextLineDataSource({"train": "gs://bucket/a.tsv"})
    assert availability.state(source) == "not known: gs://bucket/a.tsv"


def test_a_function_is_there_and_of_a_foreign_source_nothing_is_known():
    source = seqio.FunctionDataSource(read, ["train"])
    assert (availability.describe(source), availability.state(source)) == ("function read", "yes")

    class Own(seqio.FunctionDataSource.__base__):
        supports_arbitrary_sharding = False
        list_shards = get_dataset = None

    source = Own(["train"])
    assert (availability.describe(source), availability.state(source)) == ("Own", "not known")


def test_official_files_are_looked_for_where_gin_says(tfds_folder, tmp_path):
    source = super_glue.source("boolq")
    assert availability.describe(source) == f"{BOOLQ} or DATA_DIR/BoolQ"
    assert availability.state(source) == "no: not prepared by TFDS"
    set_macros(DATA_DIR=str(tmp_path))
    assert availability.state(source) == "no: BoolQ/train.jsonl and 1 more"
    os.makedirs(tmp_path / "BoolQ")
    for name in ("train", "val"):
        (tmp_path / "BoolQ" / f"{name}.jsonl").write_text("{}")
    assert availability.state(source) == "yes"


def test_what_a_dataset_needs_besides_its_splits_is_missed(tmp_path):
    set_macros(DATA_DIR=str(tmp_path))
    state = availability.state(seqio.get_mixture_or_task("xsum").source)
    assert state == "no: xsum/XSum-TRAINING-DEV-TEST-SPLIT-90-5-5.json and 1 more"
    os.makedirs(tmp_path / "xsum/xsum-extracts-from-downloads")
    (tmp_path / "xsum/XSum-TRAINING-DEV-TEST-SPLIT-90-5-5.json").write_text("{}")
    assert availability.state(seqio.get_mixture_or_task("xsum").source) == "yes"


def test_shards_are_looked_for_where_gin_says(tmp_path):
    source = seqio.get_mixture_or_task("c4_span_corruption").source
    assert availability.describe(source) == "c4/en:3.0.1 or DATA_DIR/en/c4-train.*.json.gz"
    assert availability.state(source) == "no: not prepared by TFDS"
    set_macros(DATA_DIR=str(tmp_path))
    state = availability.state(source)
    assert state == f"no: {tmp_path}/en/c4-train.*.json.gz and 1 more"
    (tmp_path / "en").mkdir()
    for split in ("train", "validation"):
        (tmp_path / f"en/c4-{split}.00000-of-00001.json.gz").write_bytes(b"")
    assert availability.state(source) == "yes"


def test_docstrings_are_there():
    source = pydocs.PydocsSource("pydocs_copa")
    assert availability.describe(source) == "installed packages"
    assert availability.state(source) == "yes"


def test_a_dataset_that_cannot_be_fetched_is_one_line_that_says_where_else_to_get_it(
    tfds_folder, monkeypatch, capsys
):
    def offline(*args, **kwargs):
        raise ConnectionError("no network\nmore")

    monkeypatch.setattr(tfds, "load", offline)
    monkeypatch.setattr(storage, "reaches_google", lambda: True)
    with pytest.raises(UserError) as told:
        registry.prepare(seqio.get_mixture_or_task("super_glue_boolq"))
    absent = f"{BOOLQ} is not prepared by TFDS"
    assert str(told.value) == (
        f"{absent}, and cannot be fetched (ConnectionError: no network): set DATA_DIR to the "
        "folder of the published BoolQ (docs/tasks.md), or prepare it where there is a network: "
        f"tfds build {BOOLQ}"
    )
    assert capsys.readouterr().out == (f"{absent}: fetching it to {tfds_folder}\n")
    with pytest.raises(UserError, match="xsum:1.1.0 is not prepared by TFDS, and cannot be"):
        availability.prepare(seqio.TfdsDataSource("xsum:1.1.0", splits=["train"]))


def test_without_a_network_a_dataset_is_not_tried_for_minutes(tfds_folder, monkeypatch, capsys):
    monkeypatch.delattr(tfds, "load")
    monkeypatch.setattr(storage, "reaches_google", lambda: False)
    with pytest.raises(UserError, match=f"^{BOOLQ} is not prepared by TFDS, and there is no net"):
        registry.prepare(seqio.get_mixture_or_task("super_glue_boolq"))
    assert not capsys.readouterr().out


def test_what_tfds_has_prepared_is_not_fetched(tfds_folder, monkeypatch, capsys):
    monkeypatch.delattr(tfds, "load")
    for name in (BOOLQ, "c4/en:3.0.1"):
        prepare(tfds_folder, name.replace(":", "/"))
    availability.prepare(seqio.get_mixture_or_task("super_glue_boolq").source)
    availability.prepare(seqio.get_mixture_or_task("c4_span_corruption").source)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name, setting", [("c4_span_corruption", "c4"), ("mc4", "mc4")])
def test_common_crawl_is_never_fetched(name, setting, monkeypatch):
    monkeypatch.delattr(tfds, "load")
    with pytest.raises(UserError) as told:
        registry.prepare(seqio.get_mixture_or_task(name))
    assert "is not prepared by TFDS, and too large for a run to fetch it: set" in str(told.value)
    assert f"or {setting}.train to a pattern, or prepare it" in str(told.value)

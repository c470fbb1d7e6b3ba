import functools
import gzip
import json
import os
import signal
import sys

import gin
import numpy as np
import pytest
import seqio
from t5.data import preprocessors

from switch_tf.commands import cache
from switch_tf.commands import main as main_module
from switch_tf.data import features, reading, windows
from switch_tf.errors import UserError
from switch_tf.tasks.sources import local_files
from switch_tf.tasks.vocabulary import t5
from tests.helpers import task_data

TASK = "c4_span_corruption"
# Brackets are no pattern here.
DATA = "data [1]"
LENGTHS = {"inputs": 24, "targets": 12}


def texts(count):
    return [f"the red cat {i} and the blue dog {i * i} go to green hills" for i in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """C4 in JSON-lines shards, a vocabulary, and C4 as Beam cached it."""
    path = tmp_path_factory.mktemp("c4")
    (path / DATA / "en").mkdir(parents=True)
    t5.train(texts(200), path / "vocabulary.model", 80)
    for split, count in {"train": 60, "validation": 7}.items():
        for shard in range(2):
            lines = "".join(json.dumps({"text": t}) + "\n" for t in texts(count)[shard::2])
            name = f"c4-{split}.0000{shard}-of-00002.json.gz"
            (path / DATA / "en" / name).write_bytes(gzip.compress(lines.encode()))
    run(path)
    yield path
    seqio.set_global_cache_dirs([])
    seqio.TaskRegistry.get(TASK)._cache_dir = None
    gin.clear_config()
    cache._set_up.cache_clear()


def run(path, *more):
    gin_flags = [
        f"--gin.DATA_DIR='{path}/{DATA}'",
        f"--gin.VOCABULARY_PATH='{path}/vocabulary.model'",
    ]
    arguments = [f"--tasks={TASK}", f"--output_cache_dir={path}/cache", "--min_shards=2"]
    main_module.main(["cache", *arguments, *gin_flags, *more])


def rows(dataset):
    return sorted(tuple(example["targets"].tolist()) for example in dataset.as_numpy_iterator())


def test_cached_texts_are_those_of_the_shards(folder):
    task = seqio.TaskRegistry.get(TASK)
    vocabulary_of_task = task.output_features["targets"].vocabulary
    source = task._get_cached_source("train").get_dataset("train", shuffle=False)
    found = [vocabulary_of_task.decode(list(row)) for row in rows(source)]
    assert sorted(found) == sorted(texts(60))
    assert rows(source) == rows(task.preprocess_precache(task.source.get_dataset("train", False)))


def test_an_epoch_in_our_order_has_the_tokens_of_seqio_reading(folder, monkeypatch):
    """Spans fall elsewhere, as documents are joined in another order; no token goes missing."""
    task = seqio.TaskRegistry.get(TASK)
    theirs = task.get_dataset(LENGTHS, "train", use_cached=True, shuffle=False, num_epochs=1)
    # The 60 examples of an epoch.
    monkeypatch.setattr(windows, "WINDOW", 60)
    ours = windows.Windows(task, "train", LENGTHS, seed=0, streams=1).examples(0, 0)
    size = task.output_features["targets"].vocabulary.vocab_size

    def counts(examples):
        rows = [np.concatenate([e["inputs"], e["targets"]]) for e in examples]
        kinds = np.bincount(np.concatenate(rows), minlength=size)
        # Without ends of sequence and sentinels.
        return kinds[2 : size - 100].tolist(), len(rows)

    assert counts(ours) == counts(theirs.as_numpy_iterator())


def test_training_batches_and_an_evaluation_come_from_the_cache(folder):
    with gin.unlock_config():
        gin.bind_parameter("%CACHE_DIR", f"{folder}/cache")
    batches = features.train_batches(task_data(TASK, LENGTHS, 4, use_cached=True))
    assert next(iter(batches))["encoder_input_tokens"].shape == (4, 24)
    assert "cache of 1 task, 60 cached examples per epoch" in batches.describe()
    evaluated = features.eval_datasets(
        task_data(TASK, LENGTHS, 4, split="validation", use_cached=True)
    )
    assert len(list(evaluated[TASK].as_numpy_iterator())) > 1


def refused(capsys, path, *more):
    with pytest.raises(SystemExit) as stop:
        run(path, *more)
    assert stop.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_what_is_cached_is_not_cached_again_unasked(folder, capsys):
    assert "is already cached in" in (line := refused(capsys, folder)) and "--overwrite" in line
    before = (folder / "cache" / TASK / "COMPLETED").stat().st_mtime_ns
    seqio.TaskRegistry.get(TASK)._cache_dir = None
    run(folder, "--overwrite")
    assert (folder / "cache" / TASK / "COMPLETED").stat().st_mtime_ns > before


def test_of_mc4_the_languages_that_are_there_are_cached(tmp_path):
    (tmp_path / "multilingual").mkdir()
    for name in ("c4-sw", "c4-sw-validation"):
        path = tmp_path / "multilingual" / f"{name}.tfrecord-00000-of-00001.json.gz"
        path.write_bytes(gzip.compress(b'{"text": "habari"}\n'))
    t5.train(texts(200), tmp_path / "vocabulary.model", 80)
    with gin.unlock_config():
        gin.bind_parameter("%DATA_DIR", str(tmp_path))
        gin.bind_parameter("%VOCABULARY_PATH", f"{tmp_path}/vocabulary.model")
    assert cache._tasks(["mc4"]) == ["mc4.sw"]
    with gin.unlock_config():
        gin.bind_parameter("%DATA_DIR", str(tmp_path / "multilingual"))
    with pytest.raises(UserError, match="'mc4' has no data"):
        cache._tasks(["mc4"])
    # The next run of the command reads its own gin again.
    cache._set_up.cache_clear()


def test_a_bad_line_that_beam_meets_is_one_line(folder, capsys, monkeypatch):
    """Of large corpora the first lines alone are checked before."""
    monkeypatch.setattr(local_files, "check", lambda *_: None)
    seqio.set_global_cache_dirs([])
    seqio.TaskRegistry.get(TASK)._cache_dir = None
    shard = folder / DATA / "en" / "c4-train.00002-of-00002.json.gz"
    shard.write_bytes(gzip.compress(b"{no json"))
    line = refused(capsys, folder, f"--output_cache_dir={folder}/other")
    assert "c4-train.00002-of-00002.json.gz:1: not JSON" in line
    shard.unlink()


def test_an_interrupted_pipeline_is_one_line_without_the_traceback_of_beam(
    folder, capsys, caplog, monkeypatch
):
    seqio.set_global_cache_dirs([])
    task = seqio.TaskRegistry.get(TASK)
    task._cache_dir = None
    pid = os.getpid()
    monkeypatch.setattr(task, "preprocess_precache", lambda *_, **__: os.kill(pid, signal.SIGTERM))
    with pytest.raises(SystemExit) as stop:
        run(folder, f"--output_cache_dir={folder}/interrupted")
    assert stop.value.code == 143
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("switch-tf: interrupted by SIGTERM: ")
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    "flags, told",
    [
        (["--tasks=no_such"], "no task or mixture 'no_such'"),
        (["--min_shards=0"], "--min_shards=0: give a number >= 1"),
        (
            ["--output_cache_dir=/proc/cache"],
            "--output_cache_dir=/proc/cache: cannot create the folder",
        ),
        (["--output_cache_dir=a[1]"], "a[1]: Beam takes *, ? and [ for patterns: give a folder"),
        (["--tasks=toy_copy", "--module_import=tests.toy_task"], "'toy_copy' cannot be cached"),
        (["--module_import=no_module"], "no_module"),
    ],
)
def test_bad_flags_are_told_in_a_line(folder, capsys, flags, told):
    cache._set_up.cache_clear()
    assert told in refused(capsys, folder, *flags)
    assert "apache_beam" in sys.modules


@pytest.mark.parametrize("meets_it", ["the check", "Beam"])
def test_a_row_that_a_task_of_the_users_refuses_is_named(folder, capsys, monkeypatch, meets_it):
    if meets_it == "Beam":
        # Only the first seconds of the data are checked before.
        monkeypatch.setattr(reading, "check_records", lambda *_: None)
    (folder / "own.tsv").write_text("a\tb\nno tab\n")
    parse = functools.partial(preprocessors.parse_tsv, field_names=["inputs", "targets"])
    name = f"cache_own_rows_{meets_it.replace(' ', '_')}"
    seqio.TaskRegistry.add(
        name,
        source=seqio.TextLineDataSource({"train": f"{folder}/own.tsv"}),
        preprocessors=[
            parse,
            seqio.preprocessors.tokenize,
            seqio.CacheDatasetPlaceholder(),
        ],
        output_features=seqio.TaskRegistry.get(TASK).output_features,
    )
    line = refused(capsys, folder, f"--tasks={name}", f"--output_cache_dir={folder}/own")
    assert f"'{name}', split 'train': {folder}/own.tsv:2: 'no tab': Expect 2 fields" in line

"""GLUE for fine-tuning as in T5 and the paper: tasks `glue_*`, mixture `glue`.

Reads TFDS, or the folders of the official zip files under DATA_DIR: CoLA/train.tsv, SST-2/train.tsv
and so on; for MRPC, Microsoft's two files and GLUE's list of its validation part. Preprocessors and
metrics are T5's. `glue_mnli` is for training; `glue_mnli_matched` and `glue_mnli_mismatched`
evaluate it.
"""

import functools
import math
from collections.abc import Iterator

import seqio
import tensorflow_datasets as tfds
from t5.data import glue_utils, postprocessors, preprocessors
from t5.evaluation import metrics

from switch_tf.data import registry
from switch_tf.tasks.parts import catalogue, rates, supervised
from switch_tf.tasks.sources import formats
from switch_tf.tasks.sources.formats import BadRecord, OmittedRecord, Records, SplitFiles
from switch_tf.tasks.sources.official import OfficialSource

_CONFIGS = tfds.text.glue.Glue.builder_configs
_FOLDERS = {
    "cola": "CoLA",
    "sst2": "SST-2",
    "mrpc": "MRPC",
    "qqp": "QQP",
    "stsb": "STS-B",
    "mnli": "MNLI",
    "mnli_matched": "MNLI",
    "mnli_mismatched": "MNLI",
    "qnli": "QNLI",
    "rte": "RTE",
    "wnli": "WNLI",
}
_MRPC = "MRPC/msr_paraphrase_{}.txt"
_MRPC_TEXTS = {"sentence1": "#1 String", "sentence2": "#2 String"}
# CoLA's columns, whose files are the only ones without a header line.
_COLA_COLUMNS = ("source", "is_acceptable", "author_mark", "sentence")


def _files(config: str) -> dict[str, str]:
    if config == "mnli":
        return {"train": "MNLI/train.tsv"}
    if config == "mrpc":
        parts = {"train": "train", "validation": "train", "test": "test"}
        return {split: _MRPC.format(part) for split, part in parts.items()}
    end = config.removeprefix("mnli") if config.startswith("mnli_") else ""
    files = {"train": "train", "validation": f"dev{end}", "test": f"test{end}"}
    if end or config == "wnli":
        # WNLI's development part reuses sentences of its training part, with other labels.
        del files["train"]
    return {split: f"{_FOLDERS[config]}/{name}.tsv" for split, name in files.items()}


def _cola(files: SplitFiles) -> Records:
    return formats.tsv(files, columns=None if files.split == "test" else _COLA_COLUMNS)


def _mrpc(files: SplitFiles) -> Records:
    """Yields the rows of Microsoft's file, where a list names those for validation."""
    (ids_path,) = files.others
    chosen = set()
    for place, row in formats.tsv(SplitFiles(files.split, ids_path), columns=("first", "second")):
        if isinstance(row, BadRecord):
            yield place, row
        elif row["second"] is None:
            yield place, BadRecord("not two ids separated by a tab")
        else:
            chosen.add((row["first"], row["second"]))
    for place, row in formats.tsv(files):
        if isinstance(row, BadRecord):
            yield place, row
        elif files.split == "test":
            # The file contains the test labels, which TFDS leaves out.
            yield place, {name: row[name] for name in row if name != "Quality"}
        elif ((row.get("#1 ID"), row.get("#2 ID")) in chosen) == (files.split == "validation"):
            yield place, row


def _label(row: dict, config: str) -> str | int | float:
    """The label in the form of TFDS's features; -1 in test parts without labels."""
    column, classes = _CONFIGS[config].label_column, _CONFIGS[config].label_classes
    if column not in row:
        return -1
    label = row[column]
    if not label:
        raise BadRecord(f"no field {column!r}")
    if classes is None:
        score = float(label)
        if not 0 <= score <= 5 or math.isnan(score):
            raise BadRecord(f"score {label!r} is not between 0 and 5")
        return score
    numbers = [str(number) for number in range(len(classes))]
    if label not in [*classes, *numbers]:
        raise BadRecord(f"label {label!r} is not one of {', '.join([*classes, *numbers])}")
    return label if label in classes else int(label)


def _example(row: dict, config: str) -> Iterator[dict]:
    texts = _MRPC_TEXTS if config == "mrpc" else _CONFIGS[config].text_features
    if config == "qqp" and (None in row.values() or row.get("is_duplicate") == ""):
        # The official files split Quora's questions at line breaks.
        raise OmittedRecord("an incomplete row")
    for column in texts.values():
        if row[column] is None:
            raise BadRecord(f"no field {column!r}")
    example = {feature: row[column] for feature, column in texts.items()}
    yield example | {"idx": row["idx"], "label": _label(row, config)}


def source(config: str) -> OfficialSource:
    """Makes a source with the examples of a configuration of TFDS's `glue`.

    Uses version 2.0.0, because the QQP file that T5 read, 1.0.0, is no longer published.
    """
    return OfficialSource(
        f"glue/{config}:2.0.0",
        _files(config),
        functools.partial(_example, config=config),
        form={"cola": _cola, "mrpc": _mrpc}.get(config, formats.tsv),
        others=("MRPC/dev_ids.tsv",) if config == "mrpc" else (),
    )


for _name in _FOLDERS:
    if _name != "wnli":
        supervised.add(
            f"glue_{_name}",
            source(_name),
            glue_utils.get_glue_text_preprocessor(_CONFIGS[_name]),
            metric_fns=glue_utils.get_glue_metric(_name),
            postprocess_fn=glue_utils.get_glue_postprocess_fn(_CONFIGS[_name]),
        )
# In the text form of WSC, because T5 trains for it on SuperGLUE's WSC and on DPR.
supervised.add(
    "glue_wnli",
    source("wnli"),
    preprocessors.wnli_simple,
    metric_fns=[metrics.accuracy],
    postprocess_fn=postprocessors.wsc_simple,
)

# As in T5, without WNLI, which no task in it trains for, and without the diagnostics, which have no
# labels; so neither is in the average.
seqio.MixtureRegistry.add(
    "glue", [(f"glue_{name}", rates.examples) for name in _FOLDERS if name != "wnli"]
)
registry.add_average(
    "glue",
    {
        "glue_cola": ("matthews_corrcoef",),
        "glue_sst2": ("accuracy",),
        "glue_mrpc": ("f1", "accuracy"),
        "glue_stsb": ("pearson_corrcoef", "spearman_corrcoef"),
        "glue_qqp": ("f1", "accuracy"),
        ("glue_mnli_matched", "glue_mnli_mismatched"): ("accuracy",),
        "glue_qnli": ("accuracy",),
        "glue_rte": ("accuracy",),
    },
)

_METRICS = {
    "cola": "Matthews correlation",
    "mrpc": "F1, accuracy",
    "stsb": "Pearson, Spearman correlation",
    "qqp": "F1, accuracy",
}
for _name in _FOLDERS:
    catalogue.add(f"glue_{_name}", paper_table=None, metric=_METRICS.get(_name, "accuracy"))
catalogue.add("glue", paper_table="Tables 4 and 5", metric="average")

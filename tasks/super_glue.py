"""SuperGLUE for fine-tuning as in T5 and the paper: tasks `super_glue_*`, mixture `super_glue`.

Reads TFDS, or the folders of the official zip files under DATA_DIR: BoolQ/train.jsonl,
BoolQ/val.jsonl and so on. Preprocessors and metrics are T5's. As in T5, WSC is trained only on its
true referents and together with Definite Pronoun Resolution (`dpr`), from
definite_pronoun_resolution/train.c.txt.
"""

import functools
import itertools
from collections.abc import Callable, Iterator

import seqio
import tensorflow_datasets as tfds
from t5.data import glue_utils, postprocessors, preprocessors
from t5.evaluation import metrics

from switch_tf.data import registry
from switch_tf.tasks.parts import catalogue, rates, supervised
from switch_tf.tasks.sources import formats
from switch_tf.tasks.sources.formats import BadRecord, Records, SplitFiles
from switch_tf.tasks.sources.official import OfficialSource

_CONFIGS = tfds.text.super_glue.SuperGlue.builder_configs
_FOLDERS = {
    "boolq": "BoolQ",
    "cb": "CB",
    "copa": "COPA",
    "multirc": "MultiRC",
    "record": "ReCoRD",
    "rte": "RTE",
    "wic": "WiC",
    "wsc.fixed": "WSC",
}
_SPLITS = {"train": "train", "validation": "val", "test": "test"}
# Spans that other words interrupt in the text, which cannot be repaired.
_BROKEN_SPANS = ("Kamenev and Zinoviev", "Kamenev, Zinoviev, and Stalin")


def _label(value) -> str | int:
    """A label's name in TFDS: "True" or "False" for booleans, -1 in test parts without labels."""
    if value is None:
        return -1
    if not isinstance(value, bool | str):
        raise BadRecord(f"label {value!r} is neither a string nor true or false")
    return str(value)


def _of_row(row: dict, config: str) -> Iterator[dict]:
    """The example of a row, for tasks with one example per line."""
    example = {name: row[name] for name in _CONFIGS[config].features}
    yield example | {"idx": row["idx"], "label": _label(row.get("label"))}


def _copa(row: dict) -> Iterator[dict]:
    label = row.get("label")
    if label not in (None, 0, 1):
        raise BadRecord(f"label {label!r} is neither 0 nor 1")
    yield from _of_row(row | {"label": None if label is None else f"choice{label + 1}"}, "copa")


def _multirc(row: dict) -> Iterator[dict]:
    passage = row["passage"]
    for question in passage["questions"]:
        for answer in question["answers"]:
            label = answer.get("label")
            if label not in (None, 0, 1):
                raise BadRecord(f"label {label!r} is neither 0 nor 1")
            yield {
                "paragraph": passage["text"],
                "question": question["question"],
                "answer": answer["text"],
                "label": -1 if label is None else str(bool(label)),
                "idx": {
                    "paragraph": row["idx"],
                    "question": question["idx"],
                    "answer": answer["idx"],
                },
            }


def _record(row: dict) -> Iterator[dict]:
    text = row["passage"]["text"]
    entities = {text[e["start"] : e["end"] + 1] for e in row["passage"]["entities"]}
    for query in row["qas"]:
        yield {
            "passage": text,
            "query": query["query"],
            "entities": sorted(entities),
            "answers": sorted({answer["text"] for answer in query.get("answers", ())}),
            "idx": {"passage": row["idx"], "query": query["idx"]},
        }


def _wsc(row: dict) -> Iterator[dict]:
    """The example of a WSC row, with spans that occur in the text, as in TFDS's `wsc.fixed`."""
    for example in _of_row(row | row["target"], "wsc.fixed"):
        for span in ("span1", "span2"):
            words = example[f"{span}_text"]
            if words in example["text"] or words in _BROKEN_SPANS:
                continue
            first = example["text"].split()[example[f"{span}_index"]]
            if "theyscold" in words:
                example["span2_index"] = 10
            start = words[0].lower() if first[0].islower() else words[0].upper()
            example[f"{span}_text"] = (start + words[1:]).rstrip(".").replace("\n", " ")
        yield example


_EXAMPLES: dict[str, Callable] = {
    "copa": _copa,
    "multirc": _multirc,
    "record": _record,
    "wsc.fixed": _wsc,
}


def source(config: str, splits=tuple(_SPLITS)) -> OfficialSource:
    """Makes a source with the examples of a configuration of TFDS's `super_glue`."""
    files = {split: f"{_FOLDERS[config]}/{_SPLITS[split]}.jsonl" for split in splits}
    examples = _EXAMPLES.get(config) or functools.partial(_of_row, config=config)
    return OfficialSource(f"super_glue/{config}:1.0.2", files, examples)


def _dpr_blocks(files: SplitFiles) -> Records:
    """Yields blocks of sentence, pronoun, candidates and answer, each on a line, then a blank."""
    block: list = []
    for number, line in itertools.chain(formats.lines(files.path), [(0, "")]):
        if isinstance(line, BadRecord) or line.strip():
            block.append((f"{files.path}:{number}", line))
        elif block:
            broken = [numbered for numbered in block if isinstance(numbered[1], BadRecord)]
            yield broken[0] if broken else (block[0][0], [text.strip() for _, text in block])
            block = []


def _dpr(block: list[str]) -> Iterator[dict]:
    if len(block) != 4:
        raise BadRecord(f"{len(block)} lines between blank lines, not 4")
    sentence, pronoun, names, answer = block
    candidates = [name.strip() for name in names.split(",")]
    if len(candidates) != 2 or answer not in candidates:
        raise BadRecord(f"answer {answer!r} is not one of two candidates {names!r}")
    yield {
        "sentence": sentence,
        "pronoun": pronoun,
        "candidates": candidates,
        "label": candidates.index(answer),
    }


def dpr_source() -> OfficialSource:
    """Makes a source with the examples of TFDS's `definite_pronoun_resolution`."""
    files = {split: f"definite_pronoun_resolution/{split}.c.txt" for split in ("train", "test")}
    # May be missing, because SuperGLUE's own files do not include it.
    return OfficialSource(
        "definite_pronoun_resolution:1.1.0", files, _dpr, form=_dpr_blocks, may_lack=True
    )


for _name in _FOLDERS:
    if _name != "wsc.fixed":
        supervised.add(
            f"super_glue_{_name}",
            source(_name),
            glue_utils.get_glue_text_preprocessor(_CONFIGS[_name]),
            metric_fns=glue_utils.get_super_glue_metric(_name),
            postprocess_fn=glue_utils.get_glue_postprocess_fn(_CONFIGS[_name]),
        )
supervised.add(
    "super_glue_wsc_train",
    source("wsc.fixed", ("train",)),
    functools.partial(preprocessors.wsc_simple, correct_referent_only=True),
    metric_fns=[],
)
supervised.add(
    "super_glue_wsc_eval",
    source("wsc.fixed", ("validation", "test")),
    preprocessors.wsc_simple,
    metric_fns=[metrics.accuracy],
    postprocess_fn=postprocessors.wsc_simple,
)

supervised.add(
    "dpr",
    dpr_source(),
    preprocessors.definite_pronoun_resolution_simple,
    metric_fns=[metrics.accuracy],
)

_NAMES = [f"super_glue_{name}" for name in _FOLDERS if name != "wsc.fixed"]
_WSC_NAMES = ["super_glue_wsc_train", "super_glue_wsc_eval", "dpr"]
seqio.MixtureRegistry.add("super_glue", [(name, rates.examples) for name in _NAMES + _WSC_NAMES])
registry.add_average(
    "super_glue",
    {
        "super_glue_boolq": ("accuracy",),
        "super_glue_cb": ("mean_3class_f1", "accuracy"),
        "super_glue_copa": ("accuracy",),
        "super_glue_multirc": ("f1", "exact_match"),
        "super_glue_record": ("f1", "em"),
        "super_glue_rte": ("accuracy",),
        "super_glue_wic": ("accuracy",),
        "super_glue_wsc_eval": ("accuracy",),
    },
)

_METRICS = {
    "super_glue_cb": "F1, accuracy",
    "super_glue_multirc": "F1, exact match",
    "super_glue_record": "F1, exact match",
    "super_glue_wsc_train": None,
}
for _name in _NAMES + _WSC_NAMES:
    catalogue.add(_name, paper_table=None, metric=_METRICS.get(_name, "accuracy"))
catalogue.add("super_glue", paper_table="Tables 4 and 5", metric="average")

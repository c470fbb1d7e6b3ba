"""Random damage to the formats that data come in, for a minute or an hour.

For each damage, what is read is either all that another reader of the same bytes finds, or one
line that names the file: never a traceback, and never less without a word.

    .venv/bin/python -m tests.fuzz_data --minutes=60
"""

import argparse
import dataclasses
import functools
import gc
import gzip
import io
import json
import re
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import seed as with_seed
from hypothesis import strategies as st

from switch_tf.errors import UserError

# Letters of one to four bytes, blanks and line ends of every kind, and what formats are made of.
LETTERS = 'ab 12\t\r\n\v\x1c\x85\u2028\ufeffé\u4e00\U0001f600{}[]",:\\\0'
TEXT = st.text(LETTERS, max_size=30)
WORDS = st.text("abcé 12.\u4e00", min_size=1, max_size=12).filter(str.strip)
LINE_ENDS = st.sampled_from(["\n", "\n", "\r\n", "\r", "\n\n", "\r\n \n"])


class Bad(Exception):
    """What the other reader says of bytes that are not in the format."""


@dataclasses.dataclass(frozen=True)
class Format:
    """A format, with two readers of it.

    Attributes:
      file: the name of the file.
      contents: strategy of whole contents.
      read: the project's reader: from the path of the file, a list of records.
      expected: the other one: from the bytes, an equal list; raises `Bad`.
      limit: part of the line with which even whole contents may be refused.
    """

    file: str
    contents: st.SearchStrategy[bytes]
    read: Callable[[Path], list]
    expected: Callable[[bytes], list]
    limit: str | None = None


@st.composite
def damaged(draw, contents):
    """Whole contents, and these with some damage, or none."""
    content = draw(contents)
    whole = content
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from(["cut", "drop", "flip", "insert", "repeat", "swap"]))
        first, last = sorted(draw(st.tuples(*[st.integers(0, len(content))] * 2)))
        part = content[first:last]
        if kind == "cut":
            content = content[:first]
        elif kind == "drop":
            content = content[:first] + content[min(last, first + 3) :]
        elif kind == "flip" and first < len(content):
            flipped = bytes([content[first] ^ draw(st.integers(1, 255))])
            content = content[:first] + flipped + content[first + 1 :]
        elif kind == "insert":
            extra = draw(st.one_of(TEXT.map(str.encode), st.binary(max_size=4)))
            content = content[:first] + extra + content[first:]
        elif kind == "repeat":
            content = content[:last] + part + content[last:]
        elif kind == "swap":
            content = content[last:] + part + content[:first]
    return whole, content


def examine(form: Format, folder: Path, whole: bytes, content: bytes) -> None:
    """Reads a content, and fails unless what is found is right."""
    path = folder / form.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    try:
        found = form.read(path)
    except UserError as error:
        told = str(error)
        assert "\n" not in told, f"more than a line: {told}"
        assert path.name in told, f"the file is not named: {told}"
        assert "Traceback" not in told, told
        is_right = form.limit is not None and form.limit in told
        assert content != whole or is_right or not form.expected(whole), f"refused: {told}"
        return
    try:
        expected = form.expected(content)
    except Bad as error:
        raise AssertionError(f"read without a word, although {error}: {found}") from error
    assert found == expected


# The other readers, in Python alone.


def unzipped(content: bytes) -> bytes:
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise Bad(f"gzip says: {error}") from error


def inflated(content: bytes) -> bytes:
    """The content of ZLIB streams, one behind another, perhaps filled up with zeros."""
    found = b""
    while content.strip(b"\0"):
        stream = zlib.decompressobj()
        try:
            found += stream.decompress(content)
        except zlib.error as error:
            raise Bad(f"zlib says: {error}") from error
        if not stream.eof:
            raise Bad("a stream that is cut off")
        content = stream.unused_data
    return found


def lines_of(content: bytes, mark: str = "\ufeff") -> list[str]:
    """The lines of a UTF-8 text, without a byte order mark."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Bad(f"not UTF-8: {error}") from error
    return io.StringIO(text.removeprefix(mark), newline=None).read().split("\n")


def documents_of_text(content: bytes) -> list[str]:
    found, block = [], []
    for line in [*lines_of(content), ""]:
        if line.strip():
            block.append(line)
        elif block:
            found.append(kept("\n".join(block)).strip("\n").rstrip())
            block = []
    return found


def kept(text: str) -> str:
    return re.sub("[\v\x1c-\x1f\x85]", "\n", text)


def values_of(content: bytes) -> list[Any]:
    """The values of JSON lines."""
    return [parsed(line) for line in lines_of(content) if line.strip()]


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError(f"a key twice: {pairs}")
    return dict(pairs)


def parsed(text: str) -> Any:
    try:
        value = json.loads(text, object_pairs_hook=once)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise Bad(f"not JSON: {error}") from error
    return value


def field(value: Any, name: str, kind: type) -> Any:
    """A field of an object, of a type: a truth value is no number."""
    if not isinstance(value, dict) or name not in value:
        raise Bad(f"no field {name}: {value!r}")
    found = value[name]
    if not isinstance(found, kind) or kind is not bool and isinstance(found, bool):
        raise Bad(f"{name} is no {kind.__name__}: {found!r}")
    return found


def documents_of_json(content: bytes) -> list[str]:
    texts = [field(value, "text", str) for value in values_of(content)]
    return [text for text in texts if text.strip()]


def boolq_of(content: bytes) -> list[tuple]:
    kinds = {"question": str, "passage": str, "idx": int, "label": bool}
    found = [tuple(field(v, n, kind) for n, kind in kinds.items()) for v in values_of(content)]
    return not_empty(found)


def not_empty(found: list) -> list:
    if not found:
        raise Bad("no examples")
    return found


def glue_of(
    content: bytes, texts: tuple[str, ...], label: str, labels: tuple[str, ...], heading=None
) -> list[tuple]:
    """The texts and labels of a table of GLUE, whose labels are names or numbers."""
    numbers = dict(zip(labels, range(len(labels)), strict=True))
    numbers |= {str(number): number for number in numbers.values()}
    found = []
    for line in lines_of(content):
        cells = line.split("\t")
        if cells == [""]:
            continue
        if heading is None:
            heading = cells
            continue
        extra = [cell for cell in cells[len(heading) :] if cell.strip()]
        row = dict(zip(heading, cells, strict=False))
        if extra or not {*texts, label} <= row.keys() or row[label] not in numbers:
            raise Bad(f"a row {cells} under {heading}")
        found.append((*(row[name] for name in texts), numbers[row[label]]))
    return not_empty(found)


# Configuration of TFDS -> folder, columns of the texts and of the label, and the labels; CoLA's
# files have no heading.
_ENTAILED = ("entailment", "not_entailment")
_COLA = ("source", "is_acceptable", "mark", "sentence")
GLUE = {
    "sst2": ("SST-2", ("sentence",), "label", ("negative", "positive"), None),
    "cola": ("CoLA", ("sentence",), "is_acceptable", ("unacceptable", "acceptable"), _COLA),
    "rte": ("RTE", ("sentence1", "sentence2"), "label", _ENTAILED, None),
    "qnli": ("QNLI", ("question", "sentence"), "label", _ENTAILED, None),
    "mnli": (
        "MNLI",
        ("sentence1", "sentence2"),
        "gold_label",
        ("entailment", "neutral", "contradiction"),
        None,
    ),
}
_TEXTS_OF_MNLI = {"sentence1": "premise", "sentence2": "hypothesis"}


def squad_of(content: bytes) -> list[tuple]:
    found: dict[str, tuple] = {}
    for article in field(parsed("\n".join(lines_of(content))), "data", list):
        for paragraph in field(article, "paragraphs", list):
            for question in field(paragraph, "qas", list):
                answers = [
                    (field(answer, "text", str), field(answer, "answer_start", int))
                    for answer in field(question, "answers", list)
                ]
                texts = field(paragraph, "context", str), field(question, "question", str)
                key = field(question, "id", str)
                before = found.setdefault(key, (key, *texts, []))
                before[-1].extend(answers)
                if not before[-1]:
                    raise Bad("no answers")
    return not_empty(list(found.values()))


def records_of(content: bytes) -> list[bytes]:
    """The records of a TFRecord file, whose checksums TensorFlow checks."""
    found, place = [], 0
    while place < len(content):
        length = int.from_bytes(content[place : place + 8], "little")
        if place + 16 + length > len(content):
            raise Bad(f"cut off at byte {place}")
        found.append(content[place + 12 : place + 12 + length])
        place += 16 + length
    return found


def pairs_of(content: bytes) -> list[tuple]:
    """Lines as T5's `parse_tsv` reads them: CSV with tabs, without quotes."""
    found = []
    for line in lines_of(content, mark=""):
        cells = line.split("\t")
        if line and len(cells) < 2:
            raise Bad(f"one cell: {line!r}")
        if line:
            found.append(tuple(cell.encode() for cell in cells[:2]))
    return found


# Whole contents.


@st.composite
def texts(draw, line):
    """Lines with ends of every kind, perhaps with a byte order mark."""
    mark = draw(st.sampled_from(["", "", "\ufeff"]))
    parts = [draw(line) + draw(LINE_ENDS) for _ in range(draw(st.integers(1, 5)))]
    return (mark + "".join(parts)).encode()


def zipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


@st.composite
def members(draw, contents, pack=zipped):
    """A compressed file of some parts, of which some may be empty, perhaps filled up with zeros."""
    content = draw(contents)
    cuts = sorted(draw(st.lists(st.integers(0, len(content)), max_size=4)))
    parts = [content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True)]
    return b"".join(map(pack, parts)) + bytes(draw(st.sampled_from([0, 0, 100])))


@st.composite
def tables(draw, config):
    """A table of GLUE in its official form."""
    _, texts, label, labels, heading = GLUE[config]
    columns = heading or ["index", *texts, label]
    rows = [] if heading else [columns]
    for _ in range(draw(st.integers(1, 5))):
        row = {name: draw(WORDS) for name in texts} | {label: draw(st.sampled_from(labels))}
        if config in ("cola", "sst2"):
            row[label] = str(labels.index(row[label]))
        rows.append([row.get(name, "0") for name in columns])
    return "".join("\t".join(row) + "\n" for row in rows).encode()


def as_json(value: dict) -> str:
    return json.dumps(value, ensure_ascii=len(str(value)) % 2 == 0)


BOOLQ = st.fixed_dictionaries(
    {"question": WORDS, "passage": TEXT, "idx": st.integers(0, 99), "label": st.booleans()}
)
ANSWER = st.fixed_dictionaries({"text": WORDS, "answer_start": st.integers(0, 99)})
QUESTION = st.fixed_dictionaries(
    {"id": WORDS, "question": TEXT, "answers": st.lists(ANSWER, min_size=1, max_size=2)}
)
PARAGRAPH = st.fixed_dictionaries(
    {"context": TEXT, "qas": st.lists(QUESTION, min_size=1, max_size=2)}
)
ARTICLE = st.fixed_dictionaries(
    {"title": WORDS, "paragraphs": st.lists(PARAGRAPH, min_size=1, max_size=2)}
)
SQUAD = st.lists(ARTICLE, min_size=1, max_size=2).map(lambda found: as_json({"data": found}))
JSON_TEXTS = texts(TEXT.map(lambda text: as_json({"text": text, "url": "u"})))
PLAIN = st.lists(TEXT, min_size=1, max_size=4).map(lambda parts: "\n\n".join(parts).encode())


# The project's readers. TensorFlow is imported in them, so that this module is quick to collect.


@functools.cache
def _dataset_of_documents(path: str):
    import tensorflow as tf

    from switch_tf.tasks.sources import text_files

    return text_files._read(tf.constant(path))


def read_documents(path: Path) -> list[str]:
    """As a run does: the check of the file, then an epoch of it."""
    from switch_tf.data.reading import user_errors
    from switch_tf.tasks.sources import local_files

    # Files that follow each other this fast may have the same time.
    local_files._count.cache_clear()
    local_files.check([str(path)])
    with user_errors("data"):
        dataset = _dataset_of_documents(str(path))
        return [example["text"].decode() for example in dataset.as_numpy_iterator()]


def read_boolq(path: Path) -> list[tuple]:
    from switch_tf.tasks import super_glue

    rows = _official(super_glue.source("boolq"), path.parent.parent)
    return [
        (text(row["question"]), text(row["passage"]), int(row["idx"]), bool(row["label"]))
        for row in rows
    ]


def read_glue(path: Path, config: str) -> list[tuple]:
    from switch_tf.tasks import glue

    names = GLUE[config][1]
    if config == "mnli":
        names = [_TEXTS_OF_MNLI[name] for name in names]
    rows = _official(glue.source(config), path.parent.parent)
    return [(*(text(row[name]) for name in names), int(row["label"])) for row in rows]


def read_shards(path: Path, name: str) -> list[str]:
    """As a run does: the check of all shards, then an epoch."""
    import seqio

    from switch_tf.data.reading import user_errors
    from switch_tf.tasks import c4, mc4  # noqa: F401 - registers their tasks
    from switch_tf.tasks.sources import local_files
    from tests.tasks.official_files import set_macros

    local_files._count.cache_clear()
    set_macros(DATA_DIR=str(path.parent.parent))
    source = seqio.TaskRegistry.get(name).source
    with user_errors("data"):
        source.prepare()
        dataset = source.get_dataset("train", shuffle=False)
        return [example["text"].decode() for example in dataset.as_numpy_iterator()]


CACHED = 3


def read_cache(path: Path) -> list[bytes]:
    """All records of a cache of so many, without an index of other files."""
    import numpy as np
    import seqio

    from switch_tf.data.task_cache import TaskCache

    name, folder = "fuzz_cache", path.parent
    if name not in seqio.TaskRegistry.names():
        seqio.TaskRegistry.add(
            name,
            source=seqio.FunctionDataSource(lambda split, shuffle_files: None, ["train"]),
            preprocessors=[seqio.CacheDatasetPlaceholder()],
            output_features={"targets": seqio.Feature(seqio.ByteVocabulary())},
        )
    task = seqio.TaskRegistry.get(name)
    info = {"num_shards": 1, "features": {"targets": {"shape": [None], "dtype": "int32"}}}
    (folder / "info.train.json").write_text(json.dumps(info))
    (folder / "stats.train.json").write_text(json.dumps({"examples": CACHED}))
    (folder / "train.tfrecord.offsets.npz").unlink(missing_ok=True)
    task._cache_dir = str(folder)
    return TaskCache(task, "train").records(np.arange(CACHED))


def cached_of(content: bytes) -> list[bytes]:
    """The records of a cache, each with its checksums."""
    found = records_of(content)
    if len(found) != CACHED or _records(found) != content:
        raise Bad("other records, or damaged ones")
    return found


def read_squad(path: Path) -> list[tuple]:
    from switch_tf.tasks import squad

    found = []
    for row in _official(squad.source(), path.parent.parent):
        answers = row["answers"]
        starts = [int(start) for start in answers["answer_start"]]
        pairs = list(zip(map(text, answers["text"]), starts, strict=True))
        found.append((text(row["id"]), text(row["context"]), text(row["question"]), pairs))
    return found


def text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _official(source, folder: Path) -> list[dict]:
    from switch_tf.data.skipping import bad_data
    from switch_tf.tasks.sources.formats import SplitFiles

    path = str(folder / source.files["train"])
    return [placed.example for placed in source.encoded(SplitFiles("train", path), bad_data())]


@functools.cache
def _task(name: str, path: str, kind: str):
    """A task of a user's own: pairs in lines, gzipped or not, or records."""
    import seqio
    import tensorflow as tf
    from t5.data import preprocessors

    readers = {
        "tsv": tf.data.TextLineDataset,
        "gzip": lambda file: tf.data.TextLineDataset(file, "GZIP"),
        "zlib": lambda file: tf.data.TextLineDataset(file, "ZLIB"),
        "records": tf.data.TFRecordDataset,
        "records_gzip": lambda file: tf.data.TFRecordDataset(file, "GZIP"),
        "records_zlib": lambda file: tf.data.TFRecordDataset(file, "ZLIB"),
    }
    parse = functools.partial(preprocessors.parse_tsv, field_names=["inputs", "targets"])
    as_text = seqio.map_over_dataset(lambda record: {"inputs": record, "targets": record})
    source = seqio.FileDataSource(readers[kind], {"train": path})
    features = {
        n: seqio.Feature(seqio.PassThroughVocabulary(1), rank=0, dtype=tf.string)
        for n in ("inputs", "targets")
    }
    steps = [as_text if kind.startswith("records") else parse]
    return seqio.TaskRegistry.add(
        name, source=source, preprocessors=steps, output_features=features
    )


def read_own(path: Path, kind: str) -> list:
    """As a run does: the checks of the files and of the first records, then an epoch."""
    import seqio

    from switch_tf.data import raw_files
    from switch_tf.data.reading import TaskSplit, check_records, elements

    name = f"fuzz_{kind}_{abs(hash(str(path)))}"
    _task(name, str(path), kind)
    task = seqio.TaskRegistry.get(name)
    raw_files._checked.clear()
    raw_files.check(task.source)
    check_records([task], "train")
    dataset = task.get_dataset(None, "train", shuffle=False)
    found = [
        (example["inputs"], example["targets"])
        for example in elements(dataset, TaskSplit(name, "train"))
    ]
    return [one for one, _ in found] if kind.startswith("records") else found


def _records(contents: list[bytes]) -> bytes:
    from switch_tf.data import tfrecords

    found = b""
    for content in contents:
        length = len(content).to_bytes(8, "little")
        found += length + tfrecords.checksum(length) + content + tfrecords.checksum(content)
    return found


# With what even whole files are refused, because TensorFlow's readers would end there.
_GAP = "at an empty member of a gzip file, or at zeros that fill one up"
_STREAMS = "at the end of the first of several ZLIB streams"
PAIRS = st.just(b"one\ttwo\nthree\tfour\nfive\tsix\n")
RECORDS = st.lists(st.binary(max_size=9), min_size=1, max_size=4).map(_records)


def own_in_gzip(file: str, contents, kind: str, meant) -> Format:
    """A format of users' own files, in members of gzip; the arguments as of `Format`."""
    read = functools.partial(read_own, kind=kind)
    return Format(f"{file}.gz", members(contents), read, lambda c: meant(unzipped(c)), limit=_GAP)


def own_in_zlib(file: str, contents, kind: str, meant) -> Format:
    """Like `own_in_gzip`, in streams of ZLIB."""
    packed, read = members(contents, zlib.compress), functools.partial(read_own, kind=kind)
    return Format(f"{file}.z", packed, read, lambda c: meant(inflated(c)), limit=_STREAMS)


FORMATS = {
    "text": Format("a.txt", PLAIN, read_documents, documents_of_text),
    "text in gzip": Format(
        "a.txt.gz", members(PLAIN), read_documents, lambda c: documents_of_text(unzipped(c))
    ),
    "JSON lines": Format("a.jsonl", JSON_TEXTS, read_documents, documents_of_json),
    "JSON lines in gzip": Format(
        "a.json.gz", members(JSON_TEXTS), read_documents, lambda c: documents_of_json(unzipped(c))
    ),
    "BoolQ": Format("BoolQ/train.jsonl", texts(BOOLQ.map(as_json)), read_boolq, boolq_of),
    **{
        of[0]: Format(
            f"{of[0]}/train.tsv",
            tables(config),
            functools.partial(read_glue, config=config),
            functools.partial(glue_of, texts=of[1], label=of[2], labels=of[3], heading=of[4]),
        )
        for config, of in GLUE.items()
    },
    "C4": Format(
        "en/c4-train.00000-of-00001.json.gz",
        members(JSON_TEXTS),
        functools.partial(read_shards, name="c4_span_corruption"),
        lambda c: documents_of_json(unzipped(c)),
    ),
    "mC4": Format(
        "multilingual/c4-af.tfrecord-00000.json.gz",
        members(JSON_TEXTS),
        functools.partial(read_shards, name="mc4.af"),
        lambda c: documents_of_json(unzipped(c)),
    ),
    "SQuAD": Format("squad/train-v1.1.json", SQUAD.map(str.encode), read_squad, squad_of),
    "own TSV": Format(
        "own.tsv",
        st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5).map(
            lambda rows: "".join(f"{a}\t{b}\n" for a, b in rows).encode()
        ),
        functools.partial(read_own, kind="tsv"),
        pairs_of,
    ),
    "own TSV in gzip": own_in_gzip("own.tsv", PAIRS, "gzip", pairs_of),
    "own TSV in ZLIB": own_in_zlib("own.tsv", PAIRS, "zlib", pairs_of),
    "own records": Format(
        "own.tfrecord",
        RECORDS,
        functools.partial(read_own, kind="records"),
        records_of,
    ),
    "own records in gzip": own_in_gzip("own.tfrecord", RECORDS, "records_gzip", records_of),
    "own records in ZLIB": own_in_zlib("own.tfrecord", RECORDS, "records_zlib", records_of),
    "cache": Format(
        "cache/train.tfrecord-00000-of-00001",
        st.lists(st.binary(max_size=9), min_size=CACHED, max_size=CACHED).map(_records),
        read_cache,
        cached_of,
    ),
}


def fuzz(name: str, folder: Path, examples: int, number: int | None = None) -> None:
    """Tries a format on so many contents.

    Args:
      name: a key of FORMATS.
      folder: an empty folder for the files.
      examples: how many contents.
      number: seeds them; None for the same in every call.
    """
    form = FORMATS[name]

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=number is None,
        suppress_health_check=list(HealthCheck),
    )
    @given(contents=damaged(form.contents))
    def tries(contents):
        examine(form, folder, *contents)

    (tries if number is None else with_seed(number)(tries))()


def main(argv: list[str]) -> int:
    """Tries all formats in turn until the time is up; returns the number of those that failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz_data", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--formats", default=",".join(FORMATS), help="some of them, with commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--examples", type=int, default=200, help="of a format at a time")
    args = parser.parse_args(argv)
    from switch_tf import runtime

    runtime.start()
    names = args.formats.split(",")
    until, number, tried, failed = time.monotonic() + 60 * args.minutes, args.seed, {}, {}
    while time.monotonic() < until and len(failed) < len(names):
        for name in names:
            if name in failed or time.monotonic() >= until:
                continue
            with tempfile.TemporaryDirectory() as folder:
                try:
                    fuzz(name, Path(folder), args.examples, number)
                    tried[name] = tried.get(name, 0) + args.examples
                except BaseException as error:
                    if isinstance(error, KeyboardInterrupt):
                        raise
                    failed[name] = error
                    for one in getattr(error, "exceptions", [error]):
                        print(f"{name}, --seed={number}: {type(one).__name__}: {one}", flush=True)
                        print(*getattr(one, "__notes__", ()), sep="\n", flush=True)
        number += 1
        # What TensorFlow keeps of all pipelines would make each collection take longer.
        gc.collect()
        gc.freeze()
    for name in names:
        print(f"{name}: {tried.get(name, 0):,} contents, {'failed' if name in failed else 'clean'}")
    return len(failed)


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))

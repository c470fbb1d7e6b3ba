"""Summarization for fine-tuning as in T5 and the paper: tasks `cnn_dailymail` and `xsum`.

Reads TFDS, or under DATA_DIR:
- cnn/stories/*.story and dailymail/stories/*.story, split by the lists of URLs
  cnn_dailymail/all_train.txt, all_val.txt and all_test.txt;
- the articles in xsum/bbc-summary-data, as published by the authors, or in
  xsum/xsum-extracts-from-downloads, as made by their scripts and by TFDS, split by
  xsum/XSum-TRAINING-DEV-TEST-SPLIT-90-5-5.json.
"""

import functools
import hashlib
import os
import re
from collections.abc import Iterator, Sequence

from t5.data import preprocessors

from switch_tf import storage
from switch_tf.tasks.parts import catalogue, supervised
from switch_tf.tasks.parts.rouge import rouge
from switch_tf.tasks.sources import formats
from switch_tf.tasks.sources.formats import BadRecord, OmittedRecord, Records, SplitFiles
from switch_tf.tasks.sources.official import OfficialSource

# Line endings of CNN and Daily Mail texts to which no full stop is added.
_ENDS = (".", "!", "?", "'", "`", '"', "\u2019", "\u201d", ")")
_PUBLISHERS = ("cnn", "dm")
# Lines of the BBC's web pages that are not part of the article.
_BUTTONS = {
    "Share this with\n",
    "Email\n",
    "Facebook\n",
    "Messenger\n",
    "Twitter\n",
    "Pinterest\n",
    "WhatsApp\n",
    "Linkedin\n",
    "LinkedIn\n",
    "Copy this link\n",
    "These are external links and will open in a new window\n",
}
# The names of an article's parts in the authors' files and in those of their scripts.
_SUMMARY = ("FIRST-SENTENCE", "INTRODUCTION")
_DOCUMENT = ("RESTBODY",)


def _text(path: str, newline: str | None) -> tuple[str, list[str] | BadRecord]:
    """The place of a file, and its lines or what is wrong with one of them."""
    found = []
    for number, line in formats.lines(path, newline):
        if isinstance(line, BadRecord):
            return f"{path}:{number}", line
        found.append(line)
    return path, found


def _listed(folders: Sequence[str]) -> list[set[str]]:
    """The names in each folder; to look for each article by itself takes long in a cloud."""
    found = []
    for folder in folders:
        with storage.told(f"{folder}: cannot be read"):
            found.append(set(storage.names(folder)))
    return found


def _stories(files: SplitFiles) -> Records:
    """Yields the stories for a list of URLs, each in a file named by the SHA-1 of its URL."""
    seen, listed = set(), _listed(files.others)
    for number, line in formats.lines(files.path, "\n"):
        place = f"{files.path}:{number}"
        if isinstance(line, BadRecord):
            yield place, line
            continue
        name = hashlib.sha1(line.strip().encode()).hexdigest()
        if not line.strip() or name in seen:
            continue
        seen.add(name)
        there = [i for i, names in enumerate(listed) if f"{name}.story" in names]
        if not there:
            yield place, BadRecord(f"its story, {name}.story, is not in any of the story folders")
        for i in there:
            story_place, text = _text(os.path.join(files.others[i], f"{name}.story"), "\n")
            is_bad = isinstance(text, BadRecord)
            yield story_place, text if is_bad else (name, _PUBLISHERS[i], text)


def _story(record: tuple[str, str, list[str]]) -> Iterator[dict]:
    """A story's article and highlights, with missing full stops added, as by TFDS's builder."""
    name, publisher, text = record
    article, highlights = [], []
    part = article
    for line in filter(None, map(str.strip, text)):
        if line.startswith("@highlight"):
            part = highlights
            continue
        ended = "@highlight" in line or line.endswith(_ENDS)
        part.append(line if ended else f"{line}.")
    if not article or not highlights:
        raise OmittedRecord("the story has no article or no highlights")
    yield {
        "article": " ".join(article),
        "highlights": "\n".join(highlights),
        "publisher": publisher,
        "id": name,
    }


def _bbc_articles(files: SplitFiles) -> Records:
    """Yields the lines of each article of a split."""
    (folder,) = files.others
    (listed,) = _listed(files.others)

    def named(splits, path: str) -> Records:
        yield from formats.items(splits, files.split, path, files.split)

    for place, name in formats.json_document(files, named):
        if isinstance(name, BadRecord):
            yield place, name
            continue
        there = [f"{name}{end}" for end in (".summary", ".data") if f"{name}{end}" in listed]
        if not there:
            yield place, BadRecord(f"no article '{name}' in {folder}")
        else:
            yield _text(os.path.join(folder, there[0]), None)


def _bbc_article(text: list[str]) -> Iterator[dict]:
    """An article's first sentence, written as a summary, and the rest as the document."""
    kept = [line for line in text if line.strip() and line not in _BUTTONS]
    # Splits into a preamble, then alternately name and text of each part: "[SN]RESTBODY[SN]", text.
    _, *parts = re.split(r"\[(?:SN|XSUM)\]", "".join(kept))
    sections = dict(zip(parts[::2], parts[1::2], strict=False))
    found = {}
    for feature, names in (("summary", _SUMMARY), ("document", _DOCUMENT)):
        texts = [sections[name] for name in names if name in sections]
        if not texts:
            raise BadRecord(f"no part {' or '.join(names)}")
        found[feature] = texts[0].strip()
    yield found


def cnn_dailymail_source() -> OfficialSource:
    """Makes a source with the examples of TFDS's `cnn_dailymail`."""
    names = {"train": "train", "validation": "val", "test": "test"}
    return OfficialSource(
        "cnn_dailymail:3.4.0",
        {split: f"cnn_dailymail/all_{name}.txt" for split, name in names.items()},
        _story,
        form=_stories,
        others=("cnn/stories", "dailymail/stories"),
    )


def xsum_source() -> OfficialSource:
    """Makes a source with the examples of TFDS's `xsum`."""
    return OfficialSource(
        "xsum:1.1.0",
        dict.fromkeys(
            ("train", "validation", "test"), "xsum/XSum-TRAINING-DEV-TEST-SPLIT-90-5-5.json"
        ),
        _bbc_article,
        form=_bbc_articles,
        others=(("xsum/bbc-summary-data", "xsum/xsum-extracts-from-downloads"),),
    )


for _name, _source, _article, _summary, _table in (
    ("cnn_dailymail", cnn_dailymail_source(), "article", "highlights", "Table 4"),
    ("xsum", xsum_source(), "document", "summary", "Table 5"),
):
    supervised.add(
        _name,
        _source,
        functools.partial(preprocessors.summarize, article_key=_article, summary_key=_summary),
        metric_fns=[rouge],
    )
    catalogue.add(_name, paper_table=_table, metric="ROUGE-2")

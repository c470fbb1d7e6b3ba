"""mC4 with T5's span corruption: a task per language, such as `mc4.en`, and the mixture `mc4`.

Languages are mixed as in mT5, in proportion to a power of their number of documents (Xue et al.,
2021, Sec. 3.2), and evaluated separately. Reads TFDS, or JSON-lines shards in the form in which mC4
is published, under DATA_DIR or wherever patterns point, with `{language}` where they differ:

    --gin.mc4.train="'mc4/c4-{language}-train-*.json.gz'" --gin.mc4.languages="['en', 'sw']"
"""

import functools
from collections.abc import Sequence
from typing import Annotated

import seqio
from tensorflow_datasets.text import c4

from switch_tf.data.availability import ABSENT
from switch_tf.errors import UserError
from switch_tf.rules import Pattern, Rule, configurable
from switch_tf.tasks.parts import catalogue, pretraining
from switch_tf.tasks.sources.shards import Shards
from switch_tf.tasks.vocabulary.t5 import MT5_OUTPUT_FEATURES

MIXTURE = "mc4"
# 101 languages, some of them also in Latin script.
LANGUAGES = tuple(c4.MC4_LANGUAGES)


@configurable("mc4")
def settings(
    train: Pattern | None = None,
    validation: Pattern | None = None,
    languages: Sequence[str] | None = None,
    temperature: Annotated[float, Rule("a number of at least 1", lambda x: x >= 1)] = 1.0 / 0.3,
) -> dict:
    """The data to read from mC4, and how to mix it.

    Args:
      train: the pattern of a language's shards; None reads DATA_DIR, or else TFDS.
      validation: the same for the validation split.
      languages: names from `LANGUAGES`; None selects all, or all whose shards exist.
      temperature: mixing rates are document counts to the power of 1 / temperature. 1 mixes as in
        the corpus; higher values favour small languages, at the risk of repeating their text too
        often. mT5 recommends 1 / 0.3.

    Raises:
      UserError: a language is unknown.
    """
    for language in languages or ():
        if language not in LANGUAGES:
            raise UserError(
                f"mc4.languages: unknown language '{language}'; known: {', '.join(LANGUAGES)}"
            )
    return {
        "patterns": {"train": train, "validation": validation},
        "languages": LANGUAGES if languages is None else tuple(languages),
        "temperature": temperature,
    }


class _Language(Shards):
    """The shards of a language, which may not exist."""

    may_lack = True

    def __init__(self, language: str):
        super().__init__(
            "c4/multilingual:3.1.0",
            tfds_splits={"train": language, "validation": f"{language}-validation"},
            files={
                "train": f"multilingual/c4-{language}.*.json.gz",
                "validation": f"multilingual/c4-{language}-validation.*.json.gz",
            },
            patterns=functools.partial(_patterns, language),
            setting="mc4",
            wanted=lambda: language in settings()["languages"],
        )

    def _if_none(self) -> tuple[str, ...]:
        # Any languages may be missing, unless gin lists those to use.
        return ABSENT if settings()["languages"] is LANGUAGES else super()._if_none()


def _patterns(language: str) -> dict[str, str | None]:
    patterns = settings()["patterns"].items()
    return {split: p.replace("{language}", language) if p else p for split, p in patterns}


def rate(task: seqio.Task) -> float:
    """A language's mixing rate: its number of documents to the power of 1 / temperature."""
    temperature = settings()["temperature"]
    if "train" not in task.splits:
        return 0.0
    return seqio.mixing_rate_num_examples(
        task, temperature=temperature, fallback_to_num_input_examples=True
    )


def task_name(language: str) -> str:
    """The name of a language's task; SeqIO does not allow hyphens in names."""
    return f"{MIXTURE}.{language.replace('-', '_')}"


for _language in LANGUAGES:
    pretraining.add(task_name(_language), _Language(_language), MT5_OUTPUT_FEATURES)
seqio.MixtureRegistry.add(MIXTURE, [(task_name(language), rate) for language in LANGUAGES])
catalogue.add(MIXTURE, "Figures 7, 8", "negative log perplexity of each language")

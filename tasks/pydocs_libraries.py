"""One pre-training task for each library of the docstrings, mixed as mT5 mixes languages.

The libraries stand in for the languages of mC4 where there is no network: `pydocs_libraries` mixes
the tasks `pydocs_libraries.tensorflow` and so on, each of which is evaluated by itself (paper, Sec.
4.4, Figures 7 and 8).
"""

import functools
from collections.abc import Mapping

import numpy as np
import seqio

from switch_tf.tasks.docstrings import corpus
from switch_tf.tasks.docstrings.examples import LABELS
from switch_tf.tasks.parts import pretraining
from switch_tf.tasks.pydocs import OUTPUT_FEATURES, PydocsSource

MIXTURE = "pydocs_libraries"
# As in mT5: small languages are seen more often than their share.
_EXPONENT = 0.3


@functools.lru_cache
def _texts(library: str, split: str, folder: object) -> np.ndarray:
    """The texts of a library; `folder` distinguishes corpora in the cache."""
    texts = [d.text.encode() for d in corpus.documents(split) if d.library == library]
    return np.array(texts, object)


class LibrarySource(PydocsSource):
    """The docstrings of one library.

    Args:
      library: its name.
    """

    def __init__(self, library: str):
        super().__init__("pydocs_span_corruption")
        self._library = library

    def columns(self, split: str) -> Mapping[str, np.ndarray]:
        """The raw examples of a split: column -> values."""
        return {"text": _texts(self._library, split, corpus.prepare())}


def rate(task: seqio.Task) -> float:
    """A library's mixing rate: its number of documents to the power of 0.3."""
    return task.source.num_input_examples("train") ** _EXPONENT


TASKS = tuple(f"{MIXTURE}.{library}" for library in LABELS)
for _library in LABELS:
    pretraining.add(f"{MIXTURE}.{_library}", LibrarySource(_library), OUTPUT_FEATURES)
seqio.MixtureRegistry.add(MIXTURE, [(task, rate) for task in TASKS])

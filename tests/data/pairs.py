"""What tasks of two cells a line share, as a user's own would have it."""

import functools

import seqio
from t5.data import preprocessors

FEATURES = {name: seqio.Feature(seqio.ByteVocabulary()) for name in ("inputs", "targets")}
PARSE = functools.partial(preprocessors.parse_tsv, field_names=["inputs", "targets"])
STEPS = [PARSE, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim]

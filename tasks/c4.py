"""C4 with T5's span corruption: `c4_span_corruption`.

Reads TFDS, or the JSON lines in which C4 is now published: the shards under DATA_DIR, or wherever
patterns point, local or in a cloud:

    --gin.c4.train="'gs://bucket/c4/en/c4-train.*.json.gz'"
"""

from switch_tf.rules import Pattern, configurable
from switch_tf.tasks.parts import catalogue, pretraining
from switch_tf.tasks.sources.shards import Shards

TASK = "c4_span_corruption"


@configurable("c4")
def patterns(
    train: Pattern | None = None, validation: Pattern | None = None
) -> dict[str, str | None]:
    """Where the shards of C4 are.

    Args:
      train: the pattern of the split's shards; None reads DATA_DIR, or else TFDS.
      validation: the same for the validation split.

    Returns:
      Split -> pattern.
    """
    return {"train": train, "validation": validation}


pretraining.add(
    TASK,
    Shards(
        "c4/en:3.0.1",
        tfds_splits={"train": "train", "validation": "validation"},
        files={"train": "en/c4-train.*.json.gz", "validation": "en/c4-validation.*.json.gz"},
        patterns=patterns,
        setting="c4",
    ),
)
catalogue.add(TASK, "Tables 1-3, 6, 7, 9-11", "negative log perplexity")

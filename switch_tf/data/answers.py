"""Which answers of a rank classification count as data."""


def right_answers(dataset):
    """A dataset without the wrong answers of t5's rank classification; any other as it is.

    Wrong ones are there to be ranked: no model is to be trained to give them, or evaluated by how
    likely they are.

    Args:
      dataset: of examples; those of a rank classification have a feature `is_correct`.
    """
    import tensorflow as tf

    if "is_correct" not in dataset.element_spec:
        return dataset
    return dataset.filter(lambda example: tf.cast(example["is_correct"], tf.bool))

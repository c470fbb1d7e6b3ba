"""Selects the answers of rank classification that count as data."""


def right_answers(dataset):
    """Drops the wrong answers of T5's rank classification; other datasets are unchanged.

    Wrong answers exist only to be ranked: a model is neither trained to give them nor evaluated by
    their likelihood.

    Args:
      dataset: a dataset of examples, which in rank classification have a feature `is_correct`.
    """
    import tensorflow as tf

    if "is_correct" not in dataset.element_spec:
        return dataset
    return dataset.filter(lambda example: tf.cast(example["is_correct"], tf.bool))

import tensorflow as tf

from switch_tf.data.answers import right_answers


def test_wrong_answers_of_a_rank_classification_are_left_out():
    dataset = tf.data.Dataset.from_tensor_slices({"n": [0, 1, 2, 3], "is_correct": [1, 0, 0, 1]})
    assert [example["n"] for example in right_answers(dataset).as_numpy_iterator()] == [0, 3]


def test_other_examples_are_all_taken():
    dataset = tf.data.Dataset.from_tensor_slices({"n": [0, 1]})
    assert right_answers(dataset) is dataset

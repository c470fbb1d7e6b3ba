from switch_tf.reproduce.experiments.languages import LIBRARIES
from switch_tf.tasks.docstrings.examples import LABELS


def test_the_libraries_are_those_that_have_tasks():
    assert LIBRARIES == LABELS

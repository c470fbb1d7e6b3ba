import sys

import pytest
import tensorflow as tf

from switch_tf.data.autograph import without_autograph


def plain(x):
    return x + 1


def condition(x):
    if x % 2 == 0:
        return x + 1
    return x - 1


def loop(x):
    total = x
    for i in range(x):
        total += i
    return total


def build(function, called):
    """A dataset of 0 to 3 under `function`; `called` gets the files of the code that runs."""

    def mapped(x):
        called.append(sys._getframe().f_code.co_filename)
        return function(x)

    return lambda: tf.data.Dataset.range(4).map(mapped)


def test_functions_that_can_do_without_are_run_as_they_stand():
    called = []
    dataset = without_autograph(build(plain, called))
    assert list(dataset.as_numpy_iterator()) == [1, 2, 3, 4]
    assert called == [__file__]


@pytest.mark.parametrize("function, expected", [(condition, [1, 0, 3, 2]), (loop, [0, 1, 3, 6])])
def test_functions_that_need_it_get_it(function, expected):
    called = []
    dataset = without_autograph(build(function, called))
    assert list(dataset.as_numpy_iterator()) == expected
    assert called[0] == __file__ and "autograph" in called[-1]


def test_an_error_of_the_function_itself_is_told_as_ever():
    def bad(x):
        return len(7)

    with pytest.raises(TypeError, match="object of type 'int' has no len"):
        without_autograph(build(bad, []))

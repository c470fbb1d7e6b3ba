"""What a run of all tests leaves out is there, and is told of."""

import ast
from pathlib import Path

import pytest

from tests.slow import SLOW, is_slow

TESTS = Path(__file__).parent


@pytest.mark.parametrize("file", SLOW)
def test_what_is_left_out_is_there(file):
    tree = ast.parse((TESTS / file).read_text())
    there = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert {name.partition("[")[0] for name in SLOW[file]} <= there


def test_a_case_is_left_out_alone_and_a_test_with_all_its_cases():
    file = "data/test_features.py"
    assert is_slow(file, "test_seed_alone_decides_the_batches[features_mixture-True]")
    assert not is_slow(file, "test_seed_alone_decides_the_batches[features_copy-True]")
    assert is_slow("test_notebook.py", "test_it_trains_evaluates_and_predicts")
    assert not is_slow("test_docs.py", "test_it_trains_evaluates_and_predicts")

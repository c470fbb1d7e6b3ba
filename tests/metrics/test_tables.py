import subprocess
import sys

from switch_tf.metrics.tables import markdown, table

ROWS = [("", "count"), ("a", 1), ("longer", "1,000,000")]


def test_a_table_has_columns_as_wide_as_their_cells():
    assert list(table(ROWS)) == ["        count", "a       1", "longer  1,000,000"]


def test_markdown_pads_no_cell():
    assert list(markdown(ROWS)) == [
        "|  | count |",
        "| --- | --- |",
        "| a | 1 |",
        "| longer | 1,000,000 |",
    ]


def test_aligned_markdown_has_columns_as_wide_as_their_cells():
    assert list(markdown(ROWS, is_aligned=True)) == [
        "|        | count     |",
        "| ------ | --------- |",
        "| a      | 1         |",
        "| longer | 1,000,000 |",
    ]


def test_a_rule_of_aligned_markdown_has_three_dashes_at_least():
    assert list(markdown([("a",), (1,)], is_aligned=True)) == ["| a   |", "| --- |", "| 1   |"]


def test_tables_need_no_library():
    code = (
        "import sys, switch_tf.metrics.tables;"
        "sys.exit(bool({'numpy', 'tensorflow', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

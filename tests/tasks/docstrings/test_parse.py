import pytest

from switch_tf.errors import UserError
from switch_tf.tasks.docstrings import parse
from switch_tf.tasks.docstrings.parse import Document, parse_libraries, parse_source

LONG = "Adds two numbers.\n\n    " + "The sum is exact for integers. " * 10


def test_docstrings_of_modules_classes_and_functions_are_found_with_their_names():
    source = f'''"""{LONG} 1"""
class A:
    """{LONG} 2"""
    def f(self):
        """{LONG} 3"""
if True:
    async def g():
        """{LONG} 4"""
'''
    found = parse_source(source.encode(), "lib", "lib.mod.__init__")
    assert [d.name for d in found] == ["lib.mod", "lib.mod.A", "lib.mod.A.f", "lib.mod.g"]
    assert found[2].text.startswith("Adds two numbers.\n\nThe sum") and found[2].text.endswith("3")


def test_short_docstrings_and_files_that_are_not_python_give_none():
    assert parse_source(b'def f():\n  """Short."""', "lib", "lib") == []
    assert parse_source(b"print 'python 2'", "lib", "lib") == []
    assert parse_source(b"x = '\0'", "lib", "lib") == []


@pytest.fixture
def packages(tmp_path):
    for library in ("a", "b"):
        (tmp_path / library).mkdir()
        for i in range(40):
            text = f'def f():\n    """{LONG} {library} {i}"""\n'
            (tmp_path / library / f"m{i}.py").write_text(text)
    # The same words, laid out in another way.
    (tmp_path / "b" / "copy.py").write_text(f'"""{LONG}\n\n  A, 0!"""')
    return {name: tmp_path / name for name in ("b", "a")}


def test_duplicates_that_differ_in_layout_are_kept_once_from_the_first_library(packages):
    documents = parse_libraries(packages)
    assert len(documents) == 80
    assert "b.copy" not in {d.name for d in documents}


def test_the_order_is_by_hash_and_the_same_in_any_number_of_processes(packages):
    documents = parse_libraries(packages)
    assert [d.key for d in documents] == sorted(d.key for d in documents)
    assert parse_libraries(packages, workers=2) == documents
    assert parse_libraries(dict(reversed(packages.items()))) == documents


def test_the_split_depends_on_the_words_alone():
    documents = [Document(f"text number {i}", "a", "n") for i in range(2000)]
    share = sum(d.split == "validation" for d in documents) / len(documents)
    assert 0.02 < share < 0.04
    assert all(Document(d.text.upper() + "\n", "b", "m").split == d.split for d in documents)


@pytest.mark.parametrize(
    "text, parts",
    [
        ("Adds two\nnumbers.\n\nBody\nhere.\n", ("Adds two numbers.", "Body\nhere.")),
        ("No full stop\n\nBody.", ("", "")),
        ("One. Two.\n\nBody.", ("", "")),
        ("Only a summary.", ("", "")),
    ],
)
def test_a_summary_is_a_first_paragraph_of_one_sentence(text, parts):
    assert Document(text, "a", "n").parts == parts


def test_a_package_that_is_not_installed_is_named():
    with pytest.raises(UserError, match="'no_such_package' is not installed"):
        parse.find_libraries(["no_such_package"])

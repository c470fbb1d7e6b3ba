"""Executes the notebook in docs/.

    .venv/bin/python -m tests.notebook

executes it as it is, in minutes, and keeps what it shows.
"""

import tempfile
from pathlib import Path

import nbclient
import nbformat

from switch_tf import runtime

PATH = Path(__file__).parent.parent / "docs" / "first_hour.ipynb"


def read():
    """The notebook as it is kept."""
    return nbformat.read(PATH, as_version=4)


def execute(notebook, folder):
    """Executes a notebook in place, in a folder; raises where a cell does."""
    # Times would differ at every execution, and a command's text comes in pieces.
    options = {"record_timing": False, "coalesce_streams": True}
    resources = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=resources, **options).execute()


def main():
    """Executes the notebook in an empty folder and writes it back."""
    # The kernel inherits its quiet log, which otherwise an import of the next line makes louder.
    runtime.start()
    from switch_tf.tasks.docstrings import corpus

    # Made here, where it is not in the cache: a cell would keep the progress bars.
    corpus.vocabulary_path()
    notebook = read()
    with tempfile.TemporaryDirectory() as folder:
        execute(notebook, folder)
    nbformat.write(notebook, PATH)


if __name__ == "__main__":
    main()

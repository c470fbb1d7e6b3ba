"""Extracts the docstrings of installed packages by parsing, without importing them.

Worker processes import this module, so it imports nothing that takes long.
"""

import ast
import concurrent.futures
import dataclasses
import functools
import hashlib
import importlib.util
import inspect
import multiprocessing
import re
import signal
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from switch_tf.errors import UserError
from switch_tf.stages import counting

# Package -> distribution whose version the lock file pins. Adding one changes everyone's corpus.
LIBRARIES = {
    "absl": "absl-py",
    "array_record": "array-record",
    "etils": "etils",
    "flax": "flax",
    "fsspec": "fsspec",
    "h5py": "h5py",
    "huggingface_hub": "huggingface-hub",
    "hypothesis": "hypothesis",
    "jax": "jax",
    "joblib": "joblib",
    "keras": "keras",
    "matplotlib": "matplotlib",
    "mesh_tensorflow": "mesh-tensorflow",
    "ml_collections": "ml-collections",
    "nltk": "nltk",
    "numpy": "numpy",
    "optax": "optax",
    "orbax": "orbax-checkpoint",
    "pandas": "pandas",
    "PIL": "pillow",
    "pyarrow": "pyarrow",
    "pyglove": "pyglove",
    "pygments": "pygments",
    "scipy": "scipy",
    "seqio": "seqio",
    "sklearn": "scikit-learn",
    "t5": "t5",
    "tensorflow": "tensorflow",
    "tensorflow_datasets": "tensorflow-datasets",
    "tensorflow_text": "tensorflow-text",
    "transformers": "transformers",
}
MIN_CHARACTERS = 200
# Documents for validation, per thousand.
VALIDATION_PER_MILLE = 30
_FILES_A_TASK = 32
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclasses.dataclass(frozen=True)
class Document:
    """A docstring of a package.

    Attributes:
      text: the dedented docstring.
      library: the package that contains it, a key of `LIBRARIES`.
      name: the qualified name, such as `numpy.linalg._linalg.solve`.
    """

    text: str
    library: str
    name: str

    @functools.cached_property
    def key(self) -> str:
        """A hexadecimal hash of the text's words, which ignores differences in layout."""
        words = " ".join(re.findall(r"\w+", self.text.casefold()))
        return hashlib.sha256(words.encode()).hexdigest()

    @property
    def split(self) -> str:
        """`train` or `validation`, determined by the key alone."""
        in_validation = int(self.key[:8], 16) % 1000 < VALIDATION_PER_MILLE
        return "validation" if in_validation else "train"

    @functools.cached_property
    def parts(self) -> tuple[str, str]:
        """The summary and the body, or two empty strings if it does not start with a sentence.

        The summary is the first paragraph, joined to one line, if that is one sentence.
        """
        first, _, rest = self.text.partition("\n\n")
        summary = " ".join(first.split())
        if re.search(r"[.!?:]\s", summary) or not summary.endswith(".") or not rest.strip():
            return "", ""
        return summary, rest.strip()


def find_libraries(names: Iterable[str] = tuple(LIBRARIES)) -> dict[str, Path]:
    """Package -> its folder, found without importing it.

    Raises:
      UserError: a package is not installed.
    """
    folders = {}
    for name in names:
        spec = importlib.util.find_spec(name)
        places = list(spec.submodule_search_locations or ()) if spec else []
        if not places:
            raise UserError(
                f"pydocs: package '{name}' is not installed; install requirements.txt "
                "(scripts/quickstart.sh does this)"
            )
        folders[name] = Path(places[0])
    return folders


def parse_libraries(folders: Mapping[str, Path], workers: int = 1) -> list[Document]:
    """Parses the documents of packages, deduplicated and in an order that mixes the packages.

    The order and the choice among duplicates depend only on the sources.

    Args:
      folders: package -> folder.
      workers: number of processes; with 1, this process does the parsing.

    Returns:
      Documents of at least `MIN_CHARACTERS` characters, ordered by key.
    """
    files = [
        (str(path), library, ".".join((library, *path.relative_to(folder).with_suffix("").parts)))
        for library, folder in sorted(folders.items())
        for path in sorted(folder.rglob("*.py"), key=lambda path: path.as_posix())
    ]
    unique = {}
    with counting("pydocs: parsing", "files", len(files)) as add:
        for count, documents in _parse_all(files, workers):
            add(count)
            for document in documents:
                # Keeps the first duplicate in the order of libraries and paths.
                unique.setdefault(document.key, document)
    return [unique[key] for key in sorted(unique)]


def _parse_all(
    files: Sequence[tuple[str, str, str]], workers: int
) -> Iterator[tuple[int, list[Document]]]:
    chunks = [files[i : i + _FILES_A_TASK] for i in range(0, len(files), _FILES_A_TASK)]
    if workers == 1:
        yield from map(_parse_files, chunks)
        return
    # Forking a process that runs TensorFlow's threads may hang, so workers are spawned.
    context = multiprocessing.get_context("spawn")
    # A terminal sends Ctrl-C to them, too: this process ends them, without their tracebacks.
    quiet = {"initializer": signal.signal, "initargs": (signal.SIGINT, signal.SIG_IGN)}
    with concurrent.futures.ProcessPoolExecutor(workers, context, **quiet) as pool:
        yield from pool.map(_parse_files, chunks)


def _parse_files(files: Sequence[tuple[str, str, str]]) -> tuple[int, list[Document]]:
    documents = []
    for path, library, module in files:
        documents += parse_source(Path(path).read_bytes(), library, module)
    return len(files), documents


def parse_source(source: bytes, library: str, module: str) -> list[Document]:
    """The documents of a module; none if it is not valid Python, as in some packages' tests.

    Args:
      source: the content of the file.
      library: the package that contains it.
      module: its dotted name; a trailing `.__init__` is dropped.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return []
    return list(_documents(tree, library, module.removesuffix(".__init__")))


def _documents(node: ast.AST, library: str, name: str) -> Iterator[Document]:
    if isinstance(node, _DOCUMENTED):
        text = inspect.cleandoc(ast.get_docstring(node, clean=False) or "").strip()
        # Lone surrogates, as in tests of parsers, cannot be written as UTF-8.
        if len(text) >= MIN_CHARACTERS and not re.search("[\ud800-\udfff]", text):
            yield Document(text, library, name)
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _documents(child, library, f"{name}.{child.name}")
        elif isinstance(child, ast.stmt | ast.ExceptHandler):
            yield from _documents(child, library, name)

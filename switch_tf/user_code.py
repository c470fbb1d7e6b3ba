"""Finds the place of an error in a user's own code, such as a metric, for an error of one line."""

import re
import site
import sysconfig
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_PACKAGE = Path(__file__).resolve().parent
_OURS = (_PACKAGE, _PACKAGE.parent / "tasks")
_LIBRARIES = [
    *(Path(p) for name, p in sysconfig.get_paths().items() if name != "data"),
    *map(Path, site.getsitepackages()),
]
_PACKAGES = "site-packages"
# Of files of code that it has rewritten.
_AUTOGRAPH = "__autograph_generated_file"
_QUOTED = "Traceback (most recent call last):"
_FRAME = re.compile(r'File "(.+?)", line (\d+), in (\S+)')
# The error itself follows its frames, which are indented.
_NOT_INDENTED = re.compile(r"^(?! |$)(.+)", re.MULTILINE)


class _Frame(NamedTuple):
    file: str
    line: int
    function: str

    def __str__(self) -> str:
        file = Path(self.file)
        roots = (Path.cwd(), *_LIBRARIES)
        here = next((file.relative_to(root) for root in roots if file.is_relative_to(root)), file)
        return f"{here}:{self.line}, in {self.function}"

    def is_ours(self) -> bool:
        return _is_ours(self.file)

    def package(self) -> str | None:
        """The name of the installed package that it is in; None if it is in no package."""
        parts = Path(self.file).parts
        return parts[parts.index(_PACKAGES) + 1] if _PACKAGES in parts[:-1] else None

    def is_of_library(self) -> bool:
        # What is not in a file is made by a library, or by Python.
        path = Path(self.file)
        is_rewritten = path.name.startswith(_AUTOGRAPH)
        return is_rewritten or not path.exists() or any(map(path.is_relative_to, _LIBRARIES))


def place_of(error: BaseException) -> str | None:
    """Describes an error in a user's code, or in a library that it called.

    The user's code is what is in no file of this package, of Python or of an installed package.

    Args:
      error: an error that was raised. If its message quotes a traceback, as TensorFlow's do for
        Python code in a data pipeline, that one counts. What it was raised from counts, too:
        SeqIO raises another error from that of a metric.

    Returns:
      The place and the error, such as "my_tasks.py:12, in accuracy: KeyError: 'answer'"; None if
      the error is not in a user's code.
    """
    found: BaseException | None = error
    while found is not None:
        if place := _place_of_one(found):
            return place
        found = found.__cause__
    return None


def innermost(error: BaseException) -> str:
    """Describes an error with the place at which it arose, be it in a library.

    Args:
      error: as for `place_of`.

    Returns:
      Such as "t5/data/preprocessors.py:12, in squad: KeyError: 'answers'".
    """
    frames, told = _frames(error)
    return f"{frames[-1]}: {told}" if frames else told


def passes(error: BaseException, packages: Sequence[str]) -> bool:
    """Whether an error was raised in code that one of these installed packages called."""
    frames, _ = _frames(error)
    return any(frame.package() in packages for frame in frames)


def is_defect(error: BaseException) -> bool:
    """Whether an error arose in this project's own code, by a mistake of its own."""
    frames, _ = _frames(error)
    return bool(frames) and frames[-1].is_ours()


def quotes_traceback(error: BaseException) -> bool:
    """Whether the message of an error has the traceback of another one."""
    return _QUOTED in str(error)


def is_of_library(error: BaseException, called_by: str) -> bool:
    """Whether an error arose in a library, in a call of one of this project's files.

    Args:
      error: an error that was raised.
      called_by: the file.
    """
    frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    ours = [file for file in frames if _is_ours(file)]
    return bool(ours) and ours[-1] == called_by != frames[-1]


def _is_ours(file: str) -> bool:
    return any(Path(file).resolve().is_relative_to(folder) for folder in _OURS)


def _frames(error: BaseException) -> tuple[list[_Frame], str]:
    """The frames of an error, or of the one that it quotes, and that error in one line."""
    _, is_quoted, text = str(error).rpartition(_QUOTED)
    if is_quoted:
        frames = [_Frame(file, int(line), name) for file, line, name in _FRAME.findall(text)]
        errors = _NOT_INDENTED.findall(text)
        return frames, " ".join(errors[0].split()) if errors else "an error"
    found = traceback.extract_tb(error.__traceback__)
    frames = [_Frame(frame.filename, frame.lineno or 0, frame.name) for frame in found]
    lines = [line for line in str(error).splitlines() if line.strip()]
    # AutoGraph quotes the code first, as it was before it was rewritten.
    if lines and lines[0].startswith("in user code"):
        quoted = [_Frame(file, int(n), name) for file, n, name in _FRAME.findall(str(error))]
        return [*frames, *quoted], lines[-1].strip()
    return frames, " ".join("".join(traceback.format_exception_only(error)).split())


def _place_of_one(error: BaseException) -> str | None:
    frames, told = _frames(error)
    # Frames of libraries below the user's say how the error arose, but not whose mistake it is.
    own = [frame for frame in frames if frame.is_ours() or not frame.is_of_library()]
    if not own or own[-1].is_ours():
        return None
    return f"{own[-1]}: {told}"

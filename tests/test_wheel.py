"""What an installation gets, from a wheel that is built here."""

import email
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from switch_tf import configurables

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built of a copy, since a build leaves folders behind."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("switch_tf", "tasks", "gin", "tests"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    code = f"from setuptools import build_meta; build_meta.build_wheel({str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as file:
        yield file


def test_its_modules_are_those_of_the_package_and_tasks_are_within_it(wheel):
    modules = {name for name in wheel.namelist() if name.endswith(".py")}
    paths = configurables.project_modules().values()
    assert modules == {str(path.relative_to(ROOT)) for path in paths}
    assert {"switch_tf/tasks/c4.py", "switch_tf/tasks/sources/official.py"} <= modules


def test_it_has_every_gin_file_where_an_installation_looks_for_them(wheel):
    (data,) = {name.partition("/")[0] for name in wheel.namelist() if ".data/" in name}
    found = {n.removeprefix(f"{data}/data/share/switch-tf/") for n in wheel.namelist()}
    assert {n for n in found if n.endswith(".gin")} == {
        str(path.relative_to(ROOT)) for path in (ROOT / "gin").rglob("*.gin")
    }


def test_it_has_one_package_and_one_command(wheel):
    (facts,) = {n.partition("/")[0] for n in wheel.namelist() if ".dist-info/" in n}
    assert wheel.read(f"{facts}/top_level.txt").decode().split() == ["switch_tf"]
    assert wheel.read(f"{facts}/entry_points.txt").decode().split("\n")[:2] == [
        "[console_scripts]",
        "switch-tf = switch_tf.commands.main:entry",
    ]


# What builds the project, which requirements.in has so that it needs no network.
BUILD_TOOLS = {"setuptools", "wheel"}


def test_it_asks_for_what_the_lock_is_made_of(wheel):
    (name,) = [n for n in wheel.namelist() if n.endswith(".dist-info/METADATA")]
    facts = email.message_from_bytes(wheel.read(name))
    asked = {wanted(line) for line in facts.get_all("Requires-Dist")}
    lines = (ROOT / "requirements.in").read_text().splitlines()
    locked = {wanted(line) for line in lines if not line.startswith("#")}
    assert asked == {(name, version) for name, version in locked if name not in BUILD_TOOLS}


def wanted(line):
    """Name and versions of a requirement, without the group that it is in."""
    requirement = Requirement(line)
    return canonicalize_name(requirement.name), str(requirement.specifier)


def test_tools_of_development_are_an_extra(wheel):
    (name,) = [n for n in wheel.namelist() if n.endswith(".dist-info/METADATA")]
    lines = email.message_from_bytes(wheel.read(name)).get_all("Requires-Dist")
    extra = {Requirement(line).name for line in lines if Requirement(line).marker}
    assert extra == {"ipykernel", "nbclient", "pytest", "pytest-xdist", "ruff"}

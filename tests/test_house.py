"""The rules of the house, as CONTRIBUTING.md states them."""

import ast
import graphlib
import importlib
import os
import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from switch_tf import configurables

ROOT = Path(__file__).parent.parent
# A module may import from its own layer and from those after it.
LAYERS = (
    "switch_tf.commands",
    "switch_tf.pages",
    "switch_tf.reproduce",
    "switch_tf.benches",
    "switch_tf.planner",
    "switch_tf.interop",
    "switch_tf.training",
    "switch_tf.evaluation",
    "switch_tf.setup",
    "switch_tf.inference",
    "switch_tf.tasks",
    "switch_tf.metrics",
    "switch_tf.checkpoints",
    "switch_tf.data",
    "switch_tf.optimizers",
    "switch_tf.models",
    "switch_tf.layers",
    "switch_tf.mesh",
    "switch_tf.hosts",
    "switch_tf.cloud",
    "switch_tf.config",
    "switch_tf.gin_checks",
    "switch_tf.configurables",
    "switch_tf.annotations",
    "switch_tf.gin_order",
    "switch_tf.gin_files",
    "switch_tf.gin_syntax",
    "switch_tf.rules",
    "switch_tf.stages",
    "switch_tf.process",
    "switch_tf.runtime",
    "switch_tf.accelerators",
    "switch_tf.storage",
    "switch_tf.user_code",
    "switch_tf.errors",
)
MAX_LINES = 400
MAX_FUNCTION_LINES = 60


def modules():
    return list(configurables.project_modules().items())


def module_names():
    return [name for name, _ in modules()]


def layer_of(module):
    """Index in LAYERS; None for what is outside, or the package itself."""
    for index, layer in enumerate(LAYERS):
        if module == layer or module.startswith(layer + "."):
            return index
    return None


def imported(tree):
    """Modules and names that a syntax tree imports, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{a.name}" for a in node.names)


def upward_imports(module, source):
    """Imports in `source` from layers above that of `module`, and relative ones."""
    own = layer_of(module)
    found = [(name, layer_of(name)) for name in imported(ast.parse(source))]
    upward = [name for name, index in found if None not in (own, index) and index < own]
    return upward + [name for name, _ in found if name.startswith(".")]


def rooms():
    """Room -> those of the others that its modules import, in their order."""
    found = {layer: set() for layer in LAYERS}
    for module, path in modules():
        for name in imported(ast.parse(path.read_text(encoding="utf-8"))):
            own, other = layer_of(module), layer_of(name)
            if None not in (own, other) and own != other:
                found[LAYERS[own]].add(LAYERS[other])
    there = {layer_of(module) for module in module_names()}
    return {
        layer.removeprefix("switch_tf."): [
            other.removeprefix("switch_tf.") for other in LAYERS if other in found[layer]
        ]
        for index, layer in enumerate(LAYERS)
        if index in there
    }


def test_no_modules_import_each_other_in_a_circle():
    """Also not within a room, nor inside functions."""
    names = set(module_names())
    imports = {
        module: {
            name if name in names else name.rpartition(".")[0]
            for name in imported(ast.parse(path.read_text(encoding="utf-8")))
        }
        & (names - {module})
        for module, path in modules()
    }
    graphlib.TopologicalSorter(imports).prepare()


def test_contributing_draws_the_house_as_it_is():
    page = (ROOT / "CONTRIBUTING.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|[^|]+\|([^|\n]*)\|$", page, re.MULTILINE)
    drawn = {room: others.replace(",", "").split() for room, others in rows}
    without_errors = {
        room: [o for o in others if o != "errors"] for room, others in rooms().items()
    }
    assert drawn == without_errors
    assert list(drawn) == list(without_errors)


def undocumented(source):
    """Public functions, classes and methods without a docstring.

    Methods that other libraries call or define, such as Keras's `call` and `build`, are theirs to
    document.
    """
    theirs = {"call", "build", "get_config", "compute_output_shape"}

    def walk(body, prefix):
        for node in body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            if node.name not in theirs and ast.get_docstring(node) is None:
                yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from walk(node.body, f"{prefix}{node.name}.")

    return list(walk(ast.parse(source).body, ""))


def test_every_module_has_a_place_in_the_order_of_layers():
    homeless = [m for m in module_names() if layer_of(m) is None and m != "switch_tf"]
    assert homeless == []


@pytest.mark.parametrize("name, path", modules(), ids=module_names())
def test_a_module_keeps_the_rules(name, path):
    source = path.read_text(encoding="utf-8")
    assert upward_imports(name, source) == []
    assert undocumented(source) == []
    assert len(source.splitlines()) <= MAX_LINES
    assert not re.search(r"compat\.v1|tf\.estimator", source)
    functions = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef)]
    long = [f.name for f in functions if f.end_lineno - f.lineno + 1 > MAX_FUNCTION_LINES]
    assert long == []


def test_an_upward_import_is_found():
    source = "def f():\n    from switch_tf.training import loop\n"
    assert upward_imports("switch_tf.layers.norm", source) == ["switch_tf.training.loop"]
    assert upward_imports("switch_tf.commands.train", source) == []
    assert upward_imports("switch_tf.layers.norm", "from . import base") == ["..base"]


def test_a_public_name_without_a_docstring_is_found():
    source = "class A:\n    'Doc.'\n    def f(self): ...\n    def _g(self): ...\n"
    assert undocumented(source) == ["A.f"]


@pytest.mark.parametrize("module", module_names())
def test_a_module_imports_from_the_lock_alone(module):
    importlib.import_module(module)


def test_every_folder_with_modules_is_a_package():
    # setuptools would leave such a folder out of an installation.
    without = {path.parent for _, path in modules() if not (path.parent / "__init__.py").exists()}
    assert without == set()


def test_the_tasks_are_one_package_wherever_they_are_imported_from():
    assert (ROOT / "tasks").samefile(ROOT / "switch_tf" / "tasks")
    with pytest.raises(ModuleNotFoundError, match="is the package switch_tf.tasks"):
        importlib.import_module("tasks")


def test_every_folder_of_gin_files_is_installed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = [p for group in settings["tool"]["setuptools"]["data-files"].values() for p in group]
    shipped = {path for pattern in patterns for path in ROOT.glob(pattern)}
    assert set((ROOT / "gin").rglob("*.gin")) <= shipped


def test_a_connection_that_leaves_the_machine_is_refused():
    with pytest.raises(RuntimeError, match="must not use the network: .* '192.0.2.1'"):
        socket.create_connection(("192.0.2.1", 80))
    with pytest.raises(RuntimeError, match="must not use the network: .* 'example.org'"):
        socket.getaddrinfo("example.org", 80)
    with pytest.raises(RuntimeError, match="must not use the network: .* 'example.org'"):
        socket.gethostbyname("example.org")
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        pytest.raises(RuntimeError, match="must not use the network: .* '192.0.2.1'"),
    ):
        datagrams.sendto(b"text", ("192.0.2.1", 80))


def test_a_child_process_is_refused_too():
    code = "import socket; socket.create_connection(('192.0.2.1', 80))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert "NetworkBlocked: tests must not use the network" in done.stderr


def test_a_connection_within_the_machine_works():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()

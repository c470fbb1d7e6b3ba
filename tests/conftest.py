"""Blocks the network and starts TensorFlow with eight logical devices, before any test module.

Both happen on import, not in a fixture: test modules import layers, and so TensorFlow, at their
top, when pytest collects them. Tests of what runs without TensorFlow start their own process.
"""

import gc
import os
import runpy
import sys
from pathlib import Path

_OFFLINE = Path(__file__).parent / "offline"

os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, (str(_OFFLINE), os.environ.get("PYTHONPATH")))
)
runpy.run_path(str(_OFFLINE / "sitecustomize.py"))

import gin  # noqa: E402 - the network is blocked first
import pytest  # noqa: E402

from switch_tf import accelerators, configurables, runtime  # noqa: E402
from tests.slow import is_slow  # noqa: E402

# The lowered steps are looked at in tests of the planner.
runtime.start(num_devices=8, shows_lowered=True)

import keras  # noqa: E402 - after TensorFlow's start
import seqio  # noqa: E402
from keras.src.trainers import trainer  # noqa: E402

if accelerators.is_tpu_build():
    # It has no XLA for CPU devices, with which Keras's own `fit` would compile: see docs/hosts.md.
    trainer.model_supports_jit = lambda model: False

# The files that take longest go first, so that no process is left with one of them at the end.
_LONGEST = (
    *("test_train.py", "test_readme.py", "test_stress.py", "test_launch.py", "test_lowered.py"),
    *("test_bad_steps.py", "test_layouts.py", "test_step.py", "test_features.py"),
    *("test_microbatches.py", "test_supervise.py", "test_distillation.py", "test_own_task.py"),
    *("test_ordered.py", "test_runs.py", "test_bench.py", "test_loss_curves.py", "test_toy.py"),
    *("test_manager.py", "test_position.py", "test_shares.py", "test_reference.py"),
    *("test_gradient_precision.py", "test_balance.py", "test_notebook.py"),
)


def pytest_addoption(parser):
    parser.addoption("--whole", action="store_true", help="also run the tests of tests/slow.py")


def pytest_configure(config):
    # A worker has what its controller found.
    is_worker = hasattr(config, "workerinput")
    some = config.args_source == config.ArgsSource.ARGS or config.option.keyword
    if not is_worker and some:
        config.option.whole = True


def pytest_collection_modifyitems(config, items):
    """Leaves out what is slow, and sorts: the longest files, then the others in their order."""
    if not config.option.whole:
        slow = {item: is_slow(_file(item), item.name) for item in items}
        config.hook.pytest_deselected(items=[item for item in items if slow[item]])
        items[:] = [item for item in items if not slow[item]]
    places = {name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


def _file(item):
    return item.path.relative_to(Path(__file__).parent).as_posix()


def pytest_collection_finish():
    """What the imports made stays: a collection need not look through it, in half a second each."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup():
    """What no call seeds, initial weights too, is the same in every run, whatever ran before."""
    keras.utils.set_random_seed(0)


_DECLARED = """
import gin

from switch_tf import config

@gin.configurable
def schedule(peak, warmup_steps=10): ...

@gin.configurable(module="layers")
class Router:
    def __init__(self, num_experts, *, noise=0.0): ...

@gin.configurable("other.Router")
class _Other:
    def __init__(self, **kwargs): ...

gin.constant("ANSWER", 42)
config.macro("SEED")
config.macro("MIXTURE_OR_TASK_MODULE")
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty working directory, and a project that declares `_DECLARED`."""
    monkeypatch.chdir(tmp_path)
    source = configurables.read_module(_DECLARED, "switch_tf.declared")
    monkeypatch.setattr(configurables, "project_source", lambda: source)
    yield tmp_path
    gin.clear_config()


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left():
    """What a file of tests leaves in gin would configure the next ones; what it keeps, fill memory.

    Kept models hold their compiled functions, of gigabytes for all files of a process.
    """
    yield
    gin.clear_config()
    # It knows a vocabulary by its path, which may be relative to a folder of a test.
    seqio.vocabularies._load_model_internal.cache_clear()
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("tests."):
            for value in list(vars(module).values()):
                if hasattr(value, "cache_clear"):
                    value.cache_clear()
    gc.collect()
    # What is still there stays: later collections need not look through it.
    gc.freeze()

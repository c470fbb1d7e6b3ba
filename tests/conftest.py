"""Blocks the network and starts TensorFlow with eight logical devices, before any test module.

Both happen on import, not in a fixture: test modules import layers, and so TensorFlow, at their
top, when pytest collects them. Tests of what runs without TensorFlow start their own process.
"""

import os
import runpy
from pathlib import Path

_OFFLINE = Path(__file__).parent / "offline"

os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, (str(_OFFLINE), os.environ.get("PYTHONPATH")))
)
runpy.run_path(str(_OFFLINE / "sitecustomize.py"))

from switch_tf import runtime  # noqa: E402 - the network is blocked first

# The lowered steps are looked at in tests of the planner.
runtime.start(num_devices=8, shows_lowered=True)

# The files that take longest go first, so that no process is left with one of them at the end.
_LONGEST = ("test_train.py", "test_readme.py", "test_lowered.py", "test_features.py")


def pytest_collection_modifyitems(items):
    """Sorts what was collected: the longest files, then the others in their order."""
    items.sort(key=lambda item: item.path.name not in _LONGEST)

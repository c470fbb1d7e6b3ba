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

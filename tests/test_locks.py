"""The lock for Cloud TPU beside the main one."""

import re
from pathlib import Path

import pytest

from switch_tf import accelerators

ROOT = Path(__file__).parent.parent
_PIN = re.compile(r"^([a-z0-9-]+)==(\S+) \\$", re.MULTILINE)


def pins(name):
    """Package -> version."""
    return dict(_PIN.findall((ROOT / name).read_text()))


def test_the_lock_for_tpu_differs_in_tensorflow_libtpu_and_the_file_system_of_gs_alone():
    main, tpu = pins("requirements.txt"), pins("requirements-tpu.txt")
    version = main.pop("tensorflow")
    assert tpu.pop("tensorflow-tpu") == version
    assert tpu.pop("libtpu") == accelerators._LIBTPU
    assert tpu.pop("tensorflow-io-gcs-filesystem")
    assert tpu == main


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-tpu.txt"])
def test_every_pin_has_hashes(name):
    text = (ROOT / name).read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    packages = [line for line in lines if not line.startswith("    --hash=sha256:")]
    assert len(packages) == len(pins(name)) > 100
    after = [lines[i + 1] for i, line in enumerate(lines) if line in packages]
    assert all(line.startswith("    --hash=sha256:") for line in after)

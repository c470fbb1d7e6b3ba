"""The measurements behind the targets: commands of `switch-tf bench`, each in a new process."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from switch_tf import storage
from switch_tf.benches.command import failure_of
from switch_tf.errors import UserError

DTYPES = ("float32", "bfloat16")
EXPERTS = (0, 8, 32, 128)
GROUP_SIZES = (128, 512, 4096)
LAYERS, BATCHES, DEVICES = (2, 4, 8), (4, 16, 64), (1, 2, 4, 8)
_SHORT = {"inputs": 32, "targets": 12}


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A command of `switch-tf bench`.

    Attributes:
      bench: its first argument.
      files: gin files.
      settings: gin settings, name -> value.
      flags: others of its flags.
    """

    bench: str
    files: Sequence[str]
    settings: Mapping
    flags: Sequence[str] = ()

    def arguments(self) -> list[str]:
        """The arguments of `switch-tf`."""
        files = (f"--gin_file={file}" for file in (*self.files, "runs/plan.gin"))
        settings = (f"--gin.{name}={value!r}" for name, value in self.settings.items())
        return ["bench", self.bench, *files, *settings, *self.flags]


def _model(num_experts: int, dtype: str = "float32", **settings) -> tuple[list[str], dict]:
    """Files and settings of a model of eight layers, whose second feed-forward layers are sparse.

    Its vocabulary is T5's, so that softmax and loss have the share of a step that they have in use.
    """
    name = "TransformerEncoderDecoder"
    sizes = {"d_model": 256, "d_kv": 64, "d_ff": 1024, "num_heads": 4, "num_layers": 4}
    given = {f"{name}.{size}": value for size, value in sizes.items()}
    given |= {"VOCAB_SIZE": 32128, "BATCH_SIZE": 16, "DTYPE": dtype}
    given["TASK_FEATURE_LENGTHS"] = {"inputs": 128, "targets": 32}
    if not num_experts:
        return ["models/t5_mini.gin"], given | settings
    given |= {"NUM_EXPERTS": num_experts, "GROUPS_MULTIPLE": 1, f"{name}.expert_frequency": 2}
    return ["models/switch_mini.gin"], given | settings


def _train(*model, flags: Sequence[str] = (), layout: str | None = None, **settings) -> Measurement:
    files, given = _model(*model, **settings)
    return Measurement("train", files + [layout] * bool(layout), given, flags)


def _name(*parts) -> str:
    return "_".join(str(part) for part in parts)


def _tiny(model: str, layout: str) -> Measurement:
    files = [f"models/{model}.gin", f"layouts/{layout}.gin"]
    return Measurement("train", files, {"BATCH_SIZE": 256, "TASK_FEATURE_LENGTHS": _SHORT})


def all_measurements(python: str) -> dict[str, Measurement]:
    """Name -> measurement, in the order in which they are made.

    Args:
      python: the peer's Python; see `peer.peer`.
    """
    against = ("--against=hf", f"--gin.peer.python={python!r}")
    found = {}
    for dtype in DTYPES:
        for experts in EXPERTS:
            flags = ("--breakdown", *(against if experts != 32 else ()))
            found[_name("train", experts, dtype)] = _train(experts, dtype, flags=flags)
    files, settings = _model(8, BATCH_SIZE=8, TASK_FEATURE_LENGTHS={"inputs": 128, "targets": 64})
    found["decode_8"] = Measurement("decode", files, settings, against)
    for experts in (8, 128):
        for size in GROUP_SIZES:
            found[_name("groups", experts, size)] = _train(
                experts, flags=["--breakdown"], GROUP_SIZE=size, BATCH_SIZE=32
            )
    wide = {f"TransformerEncoderDecoder.{n}": v for n, v in (("d_model", 768), ("d_ff", 3072))}
    for dtype in DTYPES:
        files, settings = _model(8, dtype, BATCH_SIZE=32, **wide)
        found[_name("layer", dtype)] = Measurement("layer", files, settings)
    for devices in DEVICES:
        layout, mesh = "layouts/expert_data.gin", {"MESH_SHAPE": f"batch:{devices}"}
        found[_name("devices", devices)] = _train(8, layout=layout, GROUPS_MULTIPLE=8, **mesh)
    for layers in LAYERS:
        deep = {"TransformerEncoderDecoder.num_layers": layers}
        found[_name("layers", layers)] = _train(8, **deep)
    for batch in BATCHES:
        found[_name("batch", batch)] = _train(8, BATCH_SIZE=batch)
    found["tiny_dense"] = _tiny("t5_tiny", "data")
    found["tiny_switch"] = _tiny("switch_tiny", "expert_data")
    found["switch_base"] = Measurement(
        "train",
        ["models/switch_base.gin"],
        {
            **{"NUM_EXPERTS": 8, "GROUPS_MULTIPLE": 1, "BATCH_SIZE": 2},
            **{"TASK_FEATURE_LENGTHS": {"inputs": 512, "targets": 114}},
            "bench_train.rounds": 1,
        },
    )
    return found


def measure(folder: Path, measurements: Mapping[str, Measurement]) -> dict[str, dict]:
    """Runs what has no result in the folder yet, and returns all results.

    Args:
      folder: gets a JSON file for each measurement as it comes.
      measurements: name -> measurement.

    Raises:
      UserError: one failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for number, (name, measurement) in enumerate(measurements.items(), 1):
        path = folder / f"{name}.json"
        if not path.exists():
            print(f"{number} of {len(measurements)}: {name}", file=sys.stderr, flush=True)
            _run(measurement, path)
        found[name] = json.loads(path.read_text(encoding="utf-8"))
    path = folder / "help.json"
    if not path.exists():
        storage.write_json(path, {"seconds": help_seconds()})
    return found | {"help": json.loads(path.read_text(encoding="utf-8"))}


def _run(measurement: Measurement, path: Path) -> None:
    output = f"--gin.bench_{measurement.bench}.output_path={str(path)!r}"
    failure = failure_of([*measurement.arguments(), output])
    if failure:
        raise UserError(f"{path.stem}: {failure}")


def help_seconds() -> float:
    """Seconds that `switch-tf --help` takes."""
    start = time.perf_counter()
    failure = failure_of(["--help"])
    seconds = time.perf_counter() - start
    if failure:
        raise UserError(f"--help: {failure}")
    return seconds

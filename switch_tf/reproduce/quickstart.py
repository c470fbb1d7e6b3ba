"""The quickstart: a dense T5 and a FLOP-matched Switch model on the same batches of real text.

Both are pre-trained on `pydocs_span_corruption` over a mesh of eight devices, fine-tuned on
`pydocs_finetune`, and compared as the paper does (Sec. 3.2, 4.2): quality by step, and the steps
that the Switch model needs for the dense model's quality. Further seeds of pre-training say what
chance alone does.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from switch_tf.benches.dtype import seconds_per_layer
from switch_tf.reproduce import report
from switch_tf.reproduce.arms import Arm

_MODELS = {
    "dense T5": ("models/t5_tiny.gin", "layouts/data.gin"),
    "Switch": ("models/switch_tiny.gin", "layouts/expert_data.gin"),
}
_SEED_WITH_FINETUNING = 0


@dataclasses.dataclass(frozen=True)
class Size:
    """How much the quickstart does.

    Attributes:
      pretrain: gin file of pre-training.
      seeds: model -> its seeds of pre-training, at least 0.
      switch: macros of the Switch model alone.
    """

    pretrain: str
    seeds: dict[str, tuple[int, ...]]
    switch: dict[str, Any]


SHORT = Size(
    "tables/quickstart.gin", {"dense T5": (0, 1), "Switch": (0,)}, switch={"NUM_EXPERTS": 8}
)
# Twice the even share: at 1.25, sixteen experts drop 6% of the tokens in training.
LONG = Size(
    "tables/quickstart_long.gin",
    {"dense T5": (0, 1), "Switch": (0, 1)},
    switch={"NUM_EXPERTS": 16, "CAPACITY_FACTOR": 2.0},
)
_FINETUNE = "tables/quickstart_finetune.gin"


def arms(size: Size, folder: Path, dtype: str) -> tuple[dict[str, list[Arm]], dict[str, Arm]]:
    """The runs: model -> its pre-training by seed, and model -> its fine-tuning."""
    pretrain, finetune = {}, {}
    for model, files in _MODELS.items():
        place = folder / model.replace(" ", "_").lower()
        macros = {"DTYPE": dtype}
        if model == "Switch":
            macros |= size.switch
        pretrain[model] = [
            Arm(
                f"pre-training {model}, seed {seed}",
                place / f"pretrain_seed{seed}",
                (*files, size.pretrain),
                macros | {"SEED": seed},
            )
            for seed in size.seeds[model]
        ]
        start = str(place / f"pretrain_seed{_SEED_WITH_FINETUNING}")
        finetune[model] = Arm(
            f"fine-tuning {model}",
            place / "finetune",
            (*files, _FINETUNE),
            macros | {"INITIAL_CHECKPOINT_PATH": start},
        )
    return pretrain, finetune


def run(size: Size, folder: Path) -> report.Report:
    """Runs what was not run before, and writes the report into `folder`.

    Args:
      size: `SHORT` or `LONG`.
      folder: of all runs and of the report.

    Returns:
      The report.

    Raises:
      UserError: a run failed or was interrupted; the same call goes on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dtype = _dtype(folder / "settings.json")
    pretrain, finetune = arms(size, folder, dtype)
    # The first of each model first: an interrupted quickstart then has something to show.
    waiting = [list(runs) for runs in pretrain.values()]
    for runs in waiting:
        runs.pop(0).run()
    for arm in finetune.values():
        arm.run()
    for runs in waiting:
        for arm in runs:
            arm.run()
    return report.make(pretrain, finetune)


def _dtype(path: Path) -> str:
    """The faster dtype, timed at the first call and kept: runs that are resumed must not change."""
    if path.exists():
        return json.loads(path.read_text())["dtype"]
    seconds = seconds_per_layer()
    dtype = min(seconds, key=seconds.get)
    times = ", ".join(f"{name} {1e3 * value:.2f} ms" for name, value in seconds.items())
    print(f"a small layer takes {times}: DTYPE='{dtype}'", flush=True)
    path.write_text(json.dumps({"dtype": dtype, "seconds_per_layer": seconds}, indent=2))
    return dtype

"""The page docs/sharding.md and its pictures: measured shardings and communication.

A training step of a small model is compiled in each of the paper's five layouts (Sec. 5, Fig. 9) on
eight CPU devices.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from switch_tf import config
from switch_tf import mesh as mesh_lib
from switch_tf.data.task_data import TaskData
from switch_tf.metrics.tables import markdown
from switch_tf.pages.registry import PAGES
from switch_tf.planner import lowered
from switch_tf.planner.activations import activation_places
from switch_tf.planner.plan import training_step
from switch_tf.setup.mesh_model import ModelSetup

LAYOUTS = {
    "data": "Every device has all weights and a part of the batch.",
    "model": "Every device has the whole batch, and a part of the large weights, of each expert's "
    "too. Each attention and each feed-forward layer ends in a sum over devices.",
    "model_data": "The batch is split over rows of devices, and the large weights over the devices "
    "of a row. Every row has all experts.",
    "expert_data": "Tokens and experts are split over the same devices. In each Switch layer, two "
    "all-to-alls bring tokens to their experts and back. This is the paper's choice for Switch-C.",
    "expert_model_data": "Experts and tokens are split over rows of devices, and the width of each "
    "expert over the devices of a row. This is the paper's choice for Switch-XXL.",
}
_SIZES = {
    "TransformerEncoderDecoder.num_layers": 2,
    "TransformerEncoderDecoder.expert_frequency": 2,
    "TransformerEncoderDecoder.num_heads": 8,
    "DTYPE": "bfloat16",
    "NUM_EXPERTS": 8,
}
_DEVICES = PAGES["sharding"].devices
_BATCH, _LENGTHS = 32, {"inputs": 64, "targets": 32}


@dataclasses.dataclass(frozen=True)
class LayoutMeasurements:
    """The measurements of one layout's training step.

    Attributes:
      mesh: the mesh it ran on.
      found: the collectives in the lowered step.
      weights: layer and weight name -> the weight's axes, and the mesh dimensions that shard it.
      activations: activation -> its axes, and the mesh dimensions that shard it.
    """

    mesh: mesh_lib.Mesh
    found: list
    weights: dict[str, tuple[tuple, list[str]]] = dataclasses.field(default_factory=dict)
    activations: dict[str, tuple[tuple, list[str]]] = dataclasses.field(default_factory=dict)


def measure(name: str) -> LayoutMeasurements:
    """Compiles a step in the layout of gin/layouts/`name`.gin on eight devices."""
    files = ["models/switch_tiny.gin", f"layouts/{name}.gin", "runs/plan.gin"]
    bindings = [f"{key}={value!r}" for key, value in _SIZES.items()]
    if name == "model":
        bindings.append(f"MESH_SHAPE='model:{_DEVICES}'")
    config.load(files, bindings)
    setup = ModelSetup()
    data = TaskData(batch_size=_BATCH, task_feature_lengths=_LENGTHS)
    with setup.mesh(data) as mesh:
        model = setup.model()
        make_step, features = training_step(model, setup.optimizer(), mesh, data)
        step = lowered.LoweredStep.of(make_step(), features)
        activations = activation_places(lowered.definition(step.texts[0]), mesh)
        weights = {}
        for variable in model.trainable_variables:
            spread = [s for s in variable.value.layout.sharding_specs if s in mesh.shape]
            # Every layer that has this weight shards it alike.
            weights["/".join(variable.path.split("/")[-2:])] = variable.axes, spread
    return LayoutMeasurements(mesh, step.collectives(), weights, activations)


def section(name: str, measured: LayoutMeasurements) -> Iterator[str]:
    """The lines of a layout's section of the page."""
    mesh = measured.mesh
    rules = ", ".join(f"{axis} → {dimension}" for axis, dimension in mesh.rules.items())
    shape = " × ".join(f"{size} ({dim})" for dim, size in mesh.shape.items())
    yield from (f"## {name}", "", LAYOUTS[name], "", f"Mesh {shape}; {rules}.", "")
    yield from (f"![what each device holds](sharding_{name}.png)", "")
    yield from markdown([("what", "axes", "over"), *_places(measured)])
    yield ""
    yield "What devices exchange in one training step; bytes are those that each device puts in:"
    yield ""
    heading = ("operation", "dtype", "elements", "devices", "count", "bytes")
    yield from markdown([heading, *lowered.rows(measured.found)])
    yield ""


def _places(measured: LayoutMeasurements) -> Iterator[tuple[str, str, str]]:
    for kind, tensors in (("weight", measured.weights), ("activation", measured.activations)):
        for name, (axes, over) in tensors.items():
            text = " ".join(axis or "-" for axis in axes)
            yield f"{kind}: {name}", text, ", ".join(over) or "every device has all"


def draw(measured: LayoutMeasurements, path: Path) -> None:
    """Draws which shard of the experts' weights and of the tokens each device holds, as in Fig. 9.

    Devices that hold the same shard have the same colour.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    mesh = measured.mesh
    columns = list(mesh.shape.values())[-1] if len(mesh.shape) > 1 else _DEVICES
    parts = {
        "attention and dense weights": mesh.global_places(("d_model", "d_ff"), (8, 8)),
        "experts' weights": mesh.global_places(("experts", "d_model", "d_ff"), (8, 8, 8)),
        "tokens": mesh.global_places(("batch", "length", None), (8, 8, 8)),
    }
    figure, axes = pyplot.subplots(1, len(parts), figsize=(9, 1.0 + 0.5 * _DEVICES // columns))
    for axis, (title, held) in zip(axes, parts.items(), strict=True):
        distinct = sorted({str(part) for part in held})
        number = np.array([distinct.index(str(part)) for part in held]).reshape(-1, columns)
        axis.imshow(number, cmap="tab10", vmin=0, vmax=9, aspect="auto")
        for (row, column), value in np.ndenumerate(number):
            label = f"{value + 1}/{len(distinct)}" if len(distinct) > 1 else "all"
            axis.text(column, row, label, ha="center", va="center", color="white", fontsize=8)
        axis.set(xticks=[], yticks=[])
        axis.set_title(title, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def write(folder: Path) -> None:
    """Writes sharding.md and a picture for each layout into `folder`."""
    lines = [
        "# Where tensors are, and what devices exchange",
        "",
        "The paper's five layouts (Sec. 5, Fig. 9), each a file in `gin/layouts`, measured on eight"
        " CPU devices: a training step of a model of 2 + 2 layers, two of them sparse "
        f"({_SIZES['NUM_EXPERTS']} experts, d_model 64, d_ff 256), in bfloat16, with {_BATCH} "
        f"sequences of {_LENGTHS['inputs']} + {_LENGTHS['targets']} tokens. Written by "
        "`python -m switch_tf.pages sharding`; `switch-tf plan --collectives` does the same for "
        "your own configuration.",
        "",
        "The layout of weights is read from the variables, and that of activations from the "
        "lowered step; both are the same in all layers. Optimizer slots and gradients have the "
        "layout of their weights. On CPU, DTensor reduces in float32. Small all-reduces are merged "
        "into larger ones, so their number is not that of the layers; all-to-alls are not merged. "
        "No layout gathers tokens or weights.",
        "",
    ]
    for name in LAYOUTS:
        measured = measure(name)
        lines.extend(section(name, measured))
        draw(measured, folder / f"sharding_{name}.png")
    (folder / "sharding.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")

"""Pictures of how routers distribute the tokens over their experts."""

import io
from collections.abc import Sequence

import matplotlib.figure
import numpy as np

# Numbers of experts that can be read beside each other.
_MOST_TICKS = 16


def load_picture(routing: dict[str, dict]) -> bytes:
    """A PNG heat map of each expert's share of the tokens.

    Args:
      routing: layer -> {"load_E": [experts]}.
    """
    load_NE = stack_loads([values["load_E"] for values in routing.values()])
    figure = matplotlib.figure.Figure(figsize=(2 + 0.4 * load_NE.shape[1], 1 + 0.4 * len(load_NE)))
    axes = figure.subplots()
    draw_load(axes, load_NE, list(routing))
    png = io.BytesIO()
    figure.savefig(png, format="png", bbox_inches="tight")
    return png.getvalue()


def stack_loads(loads: Sequence[np.ndarray]) -> np.ndarray:
    """Stacks the layers' loads to [layers, experts], padded with NaN where experts are fewer."""
    most = max(len(load_E) for load_E in loads)
    loads = [np.asarray(load_E, float) for load_E in loads]
    return np.stack([np.pad(x, (0, most - len(x)), constant_values=np.nan) for x in loads])


def draw_load(axes, load_NE: np.ndarray, layers: list[str]) -> None:
    """Draws each expert's share of the tokens as a heat map.

    Args:
      axes: the matplotlib axes to draw on.
      load_NE: [layers, experts], NaN where a layer has no such expert.
      layers: the layers' names.
    """
    experts = load_NE.shape[1]
    # Square cells would make a thin line of many experts where the width is given.
    aspect = "auto" if experts > _MOST_TICKS else "equal"
    largest = max(float(np.nanmax(load_NE)), 2 / experts)
    image = axes.imshow(load_NE, vmin=0.0, vmax=largest, aspect=aspect)
    axes.set_xticks(range(0, experts, 1 if aspect == "equal" else -(-experts // 8)))
    axes.set_yticks(range(len(layers)), layers)
    axes.set_xlabel("expert")
    axes.figure.colorbar(image, ax=axes, label="share of tokens")

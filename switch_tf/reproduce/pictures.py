"""Pictures of experiments: quality by step and by second, by size, and downstream."""

import statistics
from collections.abc import Mapping, Sequence

import matplotlib
import matplotlib.figure
import numpy as np

from switch_tf.reproduce import scaling
from switch_tf.reproduce.metrics import Curve

# Model -> one curve per seed.
Curves = Mapping[str, Sequence[Curve]]
_GRAY = "tab:gray"
# Curves leave out the first steps, in which all models learn the same, so that the rest is large.
_SHOWN_FROM = 0.35


def draw_curves(by_step, by_second, curves: Curves, base: str) -> None:
    """Draws NLP by step and by second of training.

    Draws the mean over seeds, the seeds, and when the fastest has the last NLP of a base model.

    Args:
      by_step, by_second: Matplotlib's axes.
      curves: see `Curves`.
      base: the model that others are compared with.
    """
    _draw(by_step, curves, base, {model: 1.0 for model in curves}, "steps", "{:,.0f} steps")
    seconds = {m: statistics.mean(c.seconds_per_step for c in cs) for m, cs in curves.items()}
    _draw(by_second, curves, base, seconds, "seconds of training steps", "{:,.0f} s")
    by_step.set_ylabel("validation NLP (minus nats per target token)")
    by_step.legend(loc="lower right", fontsize="small")


def colours(models: Sequence[str], base: str) -> dict[str, str]:
    """Model -> its colour; the base model is gray."""
    others = [model for model in models if model != base]
    names = matplotlib.color_sequences["tab10"]
    usable = [name for i, name in enumerate(names) if i != 7]
    return {base: _GRAY} | {m: usable[i % len(usable)] for i, m in enumerate(others)}


def _draw(
    axes, curves: Curves, base: str, scale: Mapping[str, float], label: str, written: str
) -> None:
    """Draws one of the two.

    Args:
      axes, curves, base: see `draw_curves`.
      scale: model -> what a step counts on the x axis.
      label: what the x axis counts.
      written: format of a value on it.
    """
    means = {model: Curve.mean(of_seeds) for model, of_seeds in curves.items()}
    colour = colours(list(curves), base)
    for model, of_seeds in curves.items():
        for curve in (means[model], *(of_seeds if len(of_seeds) > 1 else ())):
            shown = [i for i, s in enumerate(curve.steps) if s >= _SHOWN_FROM * curve.steps[-1]]
            is_mean = curve is means[model]
            axes.plot(
                [scale[model] * curve.steps[i] for i in shown],
                [curve.nlp[i] for i in shown],
                color=colour[model],
                linewidth=1.8 if is_mean else 0.8,
                alpha=1.0 if is_mean else 0.4,
                label=_legend(model, len(of_seeds)) if is_mean else None,
            )
    target = means[base].nlp[-1]
    reached = {m: c.steps_to(target) for m, c in means.items() if m != base}
    reached = {m: scale[m] * steps for m, steps in reached.items() if steps is not None}
    axes.axhline(target, color=_GRAY, linestyle=":")
    if reached:
        first = min(reached, key=reached.get)
        end = scale[base] * means[base].steps[-1]
        axes.annotate(
            f"{first}: after {written.format(reached[first])}\n{base}: {written.format(end)}",
            (reached[first], target),
            xytext=(0.03, 0.86),
            textcoords="axes fraction",
            va="top",
            arrowprops={"arrowstyle": "->"},
        )
    axes.set_xlabel(f"{label}, without the first {_SHOWN_FROM:.0%}")
    axes.grid(alpha=0.3)


def _legend(model: str, seeds: int) -> str:
    return f"{model}, mean of {seeds} seeds" if seeds > 1 else f"{model}, one seed"


def curves_figure(curves: Curves, base: str) -> matplotlib.figure.Figure:
    """A picture of `draw_curves`."""
    figure = matplotlib.figure.Figure(figsize=(12, 4.5), layout="constrained")
    draw_curves(*figure.subplots(1, 2), curves, base)
    return figure


def size_figure(
    sizes: Mapping[str, int], nlp: Mapping[str, Sequence[float]], exponent: float | None
) -> matplotlib.figure.Figure:
    """NLP against parameters, on a logarithmic axis (Fig. 4, left).

    Args:
      sizes: model -> its parameters.
      nlp: model -> the last NLP of each seed.
      exponent: that of the power law fitted to the loss, for the heading; None without one.
    """
    figure = matplotlib.figure.Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.subplots()
    models = sorted(nlp, key=sizes.get)
    for model in models:
        axes.plot([sizes[model]] * len(nlp[model]), nlp[model], "o", color=_GRAY, alpha=0.5)
    axes.plot([sizes[m] for m in models], [np.mean(nlp[m]) for m in models], "-", color="tab:blue")
    for model in models:
        axes.annotate(model, (sizes[model], np.mean(nlp[model])), fontsize="small")
    axes.set_xscale("log")
    axes.set_xlabel("parameters")
    axes.set_ylabel("validation NLP (minus nats per target token)")
    if exponent is not None:
        axes.set_title(f"loss ~ parameters^{-exponent:.3f}", fontsize="medium")
    axes.grid(alpha=0.3)
    return figure


def draw(name: str, experiment, results) -> matplotlib.figure.Figure | None:
    """Draws the picture of an experiment; None while too few of its runs are done.

    Args:
      name: `curves`, `sizes`, `downstream` or `speed_ups`.
      experiment: the `Experiment`.
      results: its `Results`.
    """
    return _PICTURES[name](experiment, results)


def _curves_of(experiment, results) -> matplotlib.figure.Figure | None:
    task = experiment.pretraining
    curves = {
        arm.model: [Curve.of(result, task) for result in found if result.diverged_at is None]
        for arm, found in results.items()
    }
    curves = {model: found for model, found in curves.items() if found and found[0].steps}
    return curves_figure(curves, next(iter(curves))) if curves else None


def sizes_and_nlp(experiment, results) -> tuple[dict[str, int], dict[str, list[float]]]:
    """Model -> parameters, and model -> the last NLP of each seed, of the models that have it."""
    sizes, nlp = {}, {}
    for arm, found in results.items():
        curves = [Curve.of(result, experiment.pretraining) for result in found]
        if values := [curve.nlp[-1] for curve in curves if curve.steps]:
            nlp[arm.model], sizes[arm.model] = values, found[0].facts["parameters"]
    return sizes, nlp


def _sizes_of(experiment, results) -> matplotlib.figure.Figure | None:
    sizes, nlp = sizes_and_nlp(experiment, results)
    return size_figure(sizes, nlp, scaling.exponent(sizes, nlp)) if nlp else None


def _downstream_of(experiment, results) -> matplotlib.figure.Figure | None:
    measured = experiment.measure(results)
    upstream, *others = experiment.metrics
    if not any(upstream.name in found for found in measured.values()):
        return None
    figure = matplotlib.figure.Figure(figsize=(6 * len(others), 4.5), layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(others), squeeze=False)[0], others, strict=True):
        for model, found in measured.items():
            if upstream.name in found and metric.name in found:
                at = np.mean(found[upstream.name]), np.mean(found[metric.name])
                axes.plot(*at, "o")
                axes.annotate(model, at, fontsize="small")
        axes.set_xlabel(upstream.name)
        axes.set_ylabel(metric.name)
        axes.grid(alpha=0.3)
    return figure


def _speed_ups_of(experiment, results) -> matplotlib.figure.Figure | None:
    """The step speed-up of the second model over the first, by task (Fig. 8)."""
    measured = experiment.measure(results)
    base, other = measured.values()
    names = [m.name for m in experiment.metrics if not m.is_shown]
    names = [name for name in names if name in base and name in other]
    if not names:
        return None
    figure = matplotlib.figure.Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.subplots()
    found = {}
    for name in names:
        target = Curve.mean(base[name])
        steps = Curve.mean(other[name]).steps_to(target.nlp[-1])
        found[name.removeprefix("curve of ")] = target.steps[-1] / steps if steps else 0.0
    axes.barh(list(found), list(found.values()))
    axes.axvline(1.0, color=_GRAY, linestyle=":")
    axes.set_xlabel("times fewer steps to the dense model's last NLP")
    axes.grid(alpha=0.3)
    return figure


_PICTURES = {
    "curves": _curves_of,
    "sizes": _sizes_of,
    "downstream": _downstream_of,
    "speed_ups": _speed_ups_of,
}

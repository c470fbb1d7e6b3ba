"""The figures of an evaluation as they are printed; logs and files have the numbers themselves."""

from collections.abc import Mapping

from switch_tf.data.batch_shape import LOST_SHARES

_SHARES = {"token_accuracy", "dropped", *LOST_SHARES}


def line(task: str, metrics: Mapping[str, float]) -> str:
    """The figures of a task in one line."""
    return "  ".join([task, *(f"{name} {shown(name, value)}" for name, value in metrics.items())])


def shown(name: str, value: float) -> str:
    """A figure as text: counts with all their digits, shares in percent as T5's accuracies are.

    >>> [shown("nlp", -1.23456), shown("tokens", 123456.0), shown("dropped", 0.05321)]
    ['-1.235', '123,456', '5.32%']
    """
    if name in _SHARES:
        return f"{100 * value:.3g}%"
    return f"{value:,.0f}" if abs(value) >= 1000 and float(value).is_integer() else f"{value:.4g}"

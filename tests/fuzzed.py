"""A function with parameters of all kinds, for `tests.fuzz_settings`."""

from typing import Any, Literal

from switch_tf import rules


@rules.configurable("fuzzed")
def fuzzed(
    whole: rules.Whole = 0,
    seed: rules.Seed = 0,
    number: float = 0.5,
    rate: rules.Rate = 0.0,
    switch: bool = False,
    text: str = "",
    path: rules.Path | None = None,
    choice: Literal["a", "b", 1] = "a",
    counts: list[rules.Count] = (),
    lengths: rules.Lengths | None = None,
    anything: Any = None,
) -> dict[str, Any]:
    """What arrives in Python."""
    return dict(locals())

"""JSON of which nothing is dropped."""

import json
from typing import Any


def parsed(text: str) -> Any:
    """The value of a JSON text.

    Raises:
      ValueError, RecursionError: it is not JSON, or an object has a key twice, of which Python
        would drop the first.
    """
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key '{twice}' occurs twice in an object")
    return found

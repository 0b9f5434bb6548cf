"""Plain data as text: what the state of a callback is made of."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np


def to_json(value: Any) -> str:
    """Text from which `from_json` makes the same value again.

    Args:
        value: Dictionaries with text for keys, lists, tuples, NumPy arrays
            and scalars, numbers, text and `None`, however nested.

    Raises:
        ValueError: If there is anything else in it.
    """
    return json.dumps(_encoded(value))


def from_json(text: str) -> Any:
    """The value that `to_json` made the text of."""
    return _decoded(json.loads(text))


def _encoded(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype != object:
        data = base64.b64encode(np.ascontiguousarray(value).tobytes())
        shape, dtype = list(value.shape), value.dtype.str
        return {"array": data.decode(), "shape": shape, "dtype": dtype}
    if isinstance(value, tuple):
        return {"tuple": [_encoded(each) for each in value]}
    if isinstance(value, list):
        return [_encoded(each) for each in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        # As pairs, so that no key can be taken for one of those above.
        return {"pairs": [[key, _encoded(each)] for key, each in value.items()]}
    raise ValueError(
        "Expected state of plain data: dictionaries with text for keys, lists, "
        "tuples, NumPy arrays, numbers and text. Received: "
        f"{value} (of type {type(value)})"
    )


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(each) for each in value]
    if not isinstance(value, dict):
        return value
    if "array" in value:
        data = base64.b64decode(value["array"])
        array = np.frombuffer(data, value["dtype"])
        return array.reshape(value["shape"]).copy()
    if "tuple" in value:
        return tuple(_decoded(each) for each in value["tuple"])
    return {key: _decoded(each) for key, each in value["pairs"]}

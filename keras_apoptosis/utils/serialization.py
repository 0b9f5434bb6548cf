"""Writes the state of callbacks as text, and reads it back."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np


def to_json(value: Any) -> str:
    """Returns a value as text that `from_json` reads.

    Args:
        value: Dictionaries whose keys are strings, lists, tuples, NumPy arrays
            and scalars, numbers, strings and `None`, nested at will.

    Raises:
        ValueError: If the value contains anything else.
    """
    return json.dumps(_encoded(value))


def from_json(text: str) -> Any:
    """Returns the value that `to_json` has written."""
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
        "Expected a state of dictionaries whose keys are strings, lists, "
        "tuples, NumPy arrays, numbers and strings. Received: "
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

"""Turns configurations and the state of callbacks into plain data."""

from __future__ import annotations

import base64
import dataclasses
import inspect
import json
from collections.abc import Mapping
from typing import Any, Self

import keras
import numpy as np


class MissingData:
    """Stands for the data of an object that was made from a config."""


class Configurable:
    """Gives a frozen dataclass `get_config` and `from_config`.

    Register the class with `keras.saving.register_keras_serializable`, and
    Keras serializes its objects, nested ones included.
    """

    def get_config(self) -> dict[str, Any]:
        """Returns the fields that the object is made of."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return {
            field.name: to_config(getattr(self, field.name)) for field in fields
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Makes an object from what `get_config` returned."""
        return cls(**{key: from_config(each) for key, each in config.items()})


def arguments_of(thing: Any, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Returns the arguments that an object was made with, as a config.

    Args:
        thing: An object that keeps each argument of its `__init__` as an
            attribute of the same name.
        without: Names of arguments to leave out.

    Raises:
        AttributeError: If an argument is not kept.
    """
    return {
        name: to_config(getattr(thing, name))
        for name in _names_of_arguments(type(thing))
        if name not in without
    }


def _names_of_arguments(cls: type) -> list[str]:
    """Names the arguments of a class, those of its bases behind `**kwargs`."""
    names: list[str] = []
    for each in cls.__mro__:
        if "__init__" not in each.__dict__:
            continue
        made: Any = each.__dict__["__init__"]
        found = list(inspect.signature(made).parameters.values())[1:]
        names += [
            one.name
            for one in found
            if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
        ]
        if not any(one.kind == one.VAR_KEYWORD for one in found):
            break
    return list(dict.fromkeys(names))


def to_config(value: Any) -> Any:
    """Returns an argument in the form that it has in a config.

    Layers become their names, tuples lists, objects with a `get_config` what
    Keras serializes them to.
    """
    if isinstance(value, keras.Layer):
        return value.name
    if isinstance(value, (list, tuple)):
        return [to_config(each) for each in value]
    if hasattr(value, "get_config") or callable(value):
        return keras.saving.serialize_keras_object(value)
    if isinstance(value, np.generic):
        return value.item()
    return value


def from_config(value: Any) -> Any:
    """Returns an argument from the form that it has in a config."""
    if isinstance(value, Mapping) and "class_name" in value:
        return keras.saving.deserialize_keras_object(dict(value))
    if isinstance(value, list):
        return [from_config(each) for each in value]
    return value


def differences(
    one: Mapping[str, Any], other: Mapping[str, Any], path: str = ""
) -> list[tuple[str, Any, Any]]:
    """Lists where two configs differ.

    Returns:
        For each difference its path, such as `"schedule.ratio"`, and both
        values.

    Example:

    >>> from keras_apoptosis.utils.serialization import differences
    >>> differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2})
    [('a.b', 1, 3)]
    """
    found: list[tuple[str, Any, Any]] = []
    for key in sorted({*one, *other}):
        here, there = one.get(key), other.get(key)
        if isinstance(here, Mapping) and isinstance(there, Mapping):
            found += differences(here, there, f"{path}{key}.")
        elif here != there:
            found.append((path + key, here, there))
    return found


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

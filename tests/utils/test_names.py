"""Tests of the resolver of names."""

import keras
import numpy as np
import pytest

from keras_apoptosis.utils.names import check_names, select

LAYER = keras.layers.Dense(2, name="hidden")
ITEMS = ["conv1", "conv2", "block/conv", "dense", "odd[1]"]


def own(name):
    return {name}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("hidden", ("hidden",)),
        ("conv*", ("conv*",)),
        (LAYER, (LAYER,)),
        (["a", LAYER], ("a", LAYER)),
        (("a",), ("a",)),
        ({"b", "a"}, ("a", "b")),
        ((), ()),
    ],
)
def test_checks_names(value, expected):
    assert check_names("layers", value) == expected


@pytest.mark.parametrize(
    "value", [3, "", [3], ["a", ""], {"a": 1}, b"a", np.array(["a"]), [["a"]]]
)
def test_refuses_other_values(value):
    with pytest.raises(ValueError, match="Received: layers="):
        check_names("layers", value)


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (None, None, ITEMS),
        (None, (), ITEMS),
        ((), None, []),
        (("dense",), None, ["dense"]),
        (("dense", "conv1"), None, ["conv1", "dense"]),
        (("conv*",), None, ["conv1", "conv2"]),
        (("*conv*",), None, ["conv1", "conv2", "block/conv"]),
        (("conv[2-9]",), None, ["conv2"]),
        (("conv?",), ("conv1",), ["conv2"]),
        (None, ("*",), []),
        # As a pattern it would fit only 'odd1'.
        (("odd[1]",), None, ["odd[1]"]),
    ],
)
def test_selects(include, exclude, expected):
    assert select(ITEMS, own, include, exclude) == expected


def test_an_item_may_have_several_names():
    names = {1: {"a", "b"}, 2: {"b", "c"}}
    assert select(names, names.get, ("b",)) == [1, 2]
    assert select(names, names.get, ("b",), ("c",)) == [1]


def test_layers_match_by_identity():
    twin = keras.layers.Dense(2, name="hidden")
    layers = {"one": [LAYER], "two": [twin]}
    found = select(
        layers, lambda _: {"hidden"}, (twin,), layers_of=layers.__getitem__
    )
    assert found == ["two"]
    with pytest.raises(ValueError, match="'dense'"):
        select(
            layers,
            lambda _: {"hidden"},
            (keras.layers.Dense(2, name="dense"),),
            layers_of=layers.__getitem__,
        )


def test_layers_match_by_name_where_items_have_none():
    assert select(["hidden", "out"], own, (LAYER,)) == ["hidden"]


@pytest.mark.parametrize("side", ["include", "exclude"])
@pytest.mark.parametrize("name", ["con1", "Conv1", "x*", "odd1"])
def test_unknown_names_are_errors(side, name):
    with pytest.raises(ValueError, match="Expected a name") as caught:
        select(ITEMS, own, what="layers", **{side: (name,)})
    text = str(caught.value)
    assert "layers of the model: conv1, conv2, block/conv, dense" in text
    assert text.endswith(f"Received: '{name}'")
    if name == "con1":
        assert "Did you mean 'conv1' or 'conv2'" in text


def test_without_items_the_error_says_so():
    with pytest.raises(ValueError, match=r"\(none\)"):
        select([], own, ("a",))

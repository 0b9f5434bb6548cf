"""Groups by names of groups and layers, layers and patterns."""

import keras
import pytest
from keras import layers

from keras_apoptosis.graph import analyse
from keras_apoptosis.graph.named_groups import named_groups


def network():
    """`a` and `b` make the units of one group, named after `a`."""
    inputs = keras.Input((3,))
    a = layers.Dense(4, name="a")(inputs)
    b = layers.Dense(4, name="b")(inputs)
    x = layers.Add()([a, b])
    x = layers.Dense(5, name="c1")(x)
    return keras.Model(inputs, layers.Dense(2, name="c2")(x))


@pytest.mark.parametrize(
    ("chosen", "excluded", "expected"),
    [
        (None, (), ["a", "c1"]),
        ("a", None, ["a"]),
        ("b", None, ["a"]),
        (["b", "c1"], (), ["a", "c1"]),
        ("c*", (), ["c1"]),
        (None, "c*", ["a"]),
        (None, ["b"], ["c1"]),
        ("*", ("a",), ["c1"]),
        (None, "c2", ["a", "c1"]),
    ],
)
def test_names(chosen, excluded, expected):
    analysis = analyse(network())
    found = named_groups(analysis, chosen, excluded)
    assert [group.name for _, group in found] == expected
    assert all(analysis.groups[n] is group for n, group in found)


def test_layers():
    model = network()
    analysis = analyse(model)
    found = named_groups(analysis, model.get_layer("b"))
    assert [group.name for _, group in found] == ["a"]
    twin = layers.Dense(4, name="b")
    with pytest.raises(ValueError, match="Received: 'b'"):
        named_groups(analysis, twin)


def test_what_is_not_prunable_is_an_error_with_the_reason():
    analysis = analyse(network())
    with pytest.raises(ValueError, match="'c2', which is not prunable"):
        named_groups(analysis, ["a", "c2"])
    with pytest.raises(ValueError, match="unit groups of the model: a, b"):
        named_groups(analysis, ["a", "d"])
    with pytest.raises(ValueError, match="Expected `layers` to be a name"):
        named_groups(analysis, 3)


def test_what_is_around_a_layer():
    """A backbone names all groups that it makes units of, tied ones too."""
    base = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4, name="inner"),
            layers.Dense(5, name="last"),
        ],
        name="base",
    )
    inputs = keras.Input((3,))
    x = layers.Dense(5, name="beside")(inputs)
    x = layers.Add()([x, base(inputs)])
    model = keras.Model(inputs, layers.Dense(2)(layers.Dense(6, name="c")(x)))
    analysis = analyse(model)
    for chosen in ("base", base, ["base"], "bas*"):
        found = named_groups(analysis, chosen)
        assert {group.name for _, group in found} == {"beside", "base/inner"}
        found = named_groups(analysis, exclude=chosen)
        assert [group.name for _, group in found] == ["c"]
    other = keras.Sequential([layers.Dense(2)], name="base")
    with pytest.raises(ValueError, match="Received: 'base'"):
        named_groups(analysis, other)

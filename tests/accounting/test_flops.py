"""Parameters and FLOPs, worked out by hand or known from the papers."""

import keras
import pytest
from keras import layers

import keras_apoptosis as ka
from tests.cases import part
from tests.every_layer import EVERY_LAYER, chain

KNOWN = [
    ("ResNet50", 4.1, 25.6),
    ("MobileNet", 0.57, 4.25),
    ("VGG16", 15.5, 138.4),
]


@pytest.mark.parametrize(("name", "giga_macs", "millions"), part(KNOWN))
def test_known_models_at_224(name, giga_macs, millions):
    """As the papers give them: multiplications at 224 x 224 pixels."""
    with keras.StatelessScope(initialize_variables=False):
        model = getattr(keras.applications, name)(weights=None)
    assert ka.flops(model) / 2e9 == pytest.approx(giga_macs, rel=0.06)
    costs = ka.accounting.layer_costs(model)
    total = sum(cost.parameters for cost in costs)
    assert total == model.count_params()
    assert total / 1e6 == pytest.approx(millions, rel=0.01)


def attention():
    x = inputs = keras.Input((5, 4))
    return keras.Model(
        inputs, layers.MultiHeadAttention(2, 3, value_dim=6)(x, x)
    )


BY_HAND = {
    # 5 steps: 4 to 2 heads of 3, 3 and 6; 2 heads of 5 x 5 scores of 3 and
    # 6 entries; back from 12 to 4.
    "attention": (
        attention,
        5 * (2 * 4 * 6 + 4 * 12) + 2 * 5 * 5 * (3 + 6) + 5 * 12 * 4,
    ),
    # Four gates of 3 units, from 2 inputs and themselves, 7 times.
    "lstm": (lambda: chain((7, 2), layers.LSTM(3)), 7 * 4 * 3 * (2 + 3)),
    "gru": (
        lambda: chain((7, 2), layers.Bidirectional(layers.GRU(3))),
        2 * 7 * 3 * 3 * (2 + 3),
    ),
    # 3 x 3 on 4 x 4 places, each channel by itself, then 2 to 5.
    "separable": (
        lambda: chain((6, 6, 2), layers.SeparableConv2D(5, 3)),
        16 * (9 * 2 + 2 * 5),
    ),
    "depthwise": (
        lambda: chain((6, 6, 2), layers.DepthwiseConv2D(3, depth_multiplier=2)),
        16 * 9 * 2 * 2,
    ),
    "grouped": (
        lambda: chain((6, 6, 4), layers.Conv2D(6, 3, groups=2)),
        16 * 9 * 2 * 6,
    ),
    # Each of 6 x 6 pixels is spread over 3 x 3.
    "transposed": (
        lambda: chain((6, 6, 2), layers.Conv2DTranspose(5, 3)),
        36 * 9 * 2 * 5,
    ),
    "time": (
        lambda: chain((7, 2), layers.TimeDistributed(layers.Dense(3))),
        7 * 2 * 3,
    ),
    "einsum": (
        lambda: chain((7, 2), layers.EinsumDense("abc,cde->abde", (7, 3, 4))),
        7 * 2 * 3 * 4,
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_multiplications_by_hand(name):
    build, expected = BY_HAND[name]
    model = build()
    assert ka.flops(model) == 2 * expected
    assert ka.flops(model, training=True) == 6 * expected


@pytest.mark.parametrize("name", part([*EVERY_LAYER]))
def test_layers_add_up_to_the_model(name):
    model = EVERY_LAYER[name]()
    costs = ka.accounting.layer_costs(model)
    assert sum(cost.parameters for cost in costs) == model.count_params()


def test_the_report_says_what_a_unit_saves():
    """What the report promises is what surgery does."""
    model = EVERY_LAYER["separable_2d"]()
    parameters, flops = model.count_params(), ka.flops(model)
    line = next(
        line for line in ka.report(model).splitlines() if " one " in line
    )
    _, _, saved_parameters, saved_flops, *_ = line.replace(",", "").split()
    ka.shrink(model, ka.Removal({"one": [0]}))
    assert parameters - model.count_params() == int(saved_parameters)
    assert flops - ka.flops(model) == int(saved_flops)

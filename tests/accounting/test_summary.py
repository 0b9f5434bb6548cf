"""Counts by hand, and what people look at."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers

import keras_apoptosis as ka
from keras_apoptosis.utils.tables import table


def test_flops_by_hand():
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(4, 3, padding="same", strides=2),  # 3 x 3 positions
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(5),
        ]
    )
    convolution = 2 * (3 * 3 * 2 * 4) * (3 * 3)
    assert ka.flops(model) == convolution + 2 * (9 * 4) * 5


def test_flops_of_vgg16():
    """15.5 billion multiply-adds at 224 x 224 (Simonyan and Zisserman)."""
    inputs = x = keras.Input((224, 224, 3))
    for block, (count, channels) in enumerate(
        [(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)]
    ):
        size = 224 >> block
        assert x.shape[1] == size
        for _ in range(count):
            x = layers.Conv2D(channels, 3, padding="same")(x)
        x = layers.MaxPooling2D(2)(x)
    # The dense part is counted by hand: 0.12 billion, and 123 M weights.
    model = keras.Model(inputs, layers.Flatten()(x))
    dense = 7 * 7 * 512 * 4096 + 4096 * 4096 + 4096 * 1000
    assert (ka.flops(model) / 2 + dense) / 1e9 == pytest.approx(15.5, abs=0.05)


def test_table():
    text = table(("group", "units"), [("one", 1234), ("two", "x")])
    lines = [line.split() for line in text.splitlines()]
    assert lines[0] == ["group", "units"]
    assert lines[2:] == [["one", "1,234"], ["two", "x"]]


def test_a_table_is_text_in_notebooks_as_well(monkeypatch):
    """There rich would show it, and write nothing."""
    expected = table(["a"], [[1]])
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert table(["a"], [[1]]) == expected != ""


def test_report_of_a_removal():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4, name="one"),
            layers.Dense(2),
        ]
    )
    given = ka.Replacement([1.0, 1.0], residual=[3.0, 4.0])
    report = ka.shrink(model, ka.Removal({"one": [0, 1]}, {"one": given}))
    (change,) = report.groups
    assert (change.name, change.before, change.after) == ("one", 4, 2)
    assert change.residual == pytest.approx(np.sqrt(12.5))
    assert (report.parameters_before, report.parameters_after) == (26, 14)
    assert "3.54" in str(report)


def test_a_report_without_unit_groups():
    layers = [keras.Input((4,)), keras.layers.ReLU()]
    model = keras.Sequential(layers, name="mine")
    assert ka.unit_groups(model) == []
    assert ka.report(model).startswith("Model 'mine' has no unit groups")


def test_a_table_without_rows():
    first, *_ = table(("group", "units"), []).splitlines()
    assert first.split() == ["group", "units"]


HISTORY = {
    "loss": [1.0, 0.5],
    "accuracy": [0.5, 0.7],
    "parameters": [100, 50],
    "units/one": [8, 4],
}


@pytest.mark.parametrize(
    "logs", [HISTORY, {"units/one": [8, 4]}, {"loss": [1, 2, 3], **HISTORY}]
)
@pytest.mark.parametrize("whole", [True, False])
def test_plot(tmp_path, logs, whole):
    history = keras.callbacks.History()
    history.history = logs
    figure = ka.plot_history(
        history if whole else logs, tmp_path / "figure.png"
    )
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    # As a notebook asks for it, which has not imported pyplot.
    assert figure._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("history", [{}, {"lr": [1.0]}, [1.0, 2.0], None])
def test_nothing_to_plot_is_an_error(history, tmp_path):
    with pytest.raises(ValueError, match=r"Expected .* Received: "):
        ka.plot_history(history, tmp_path / "figure.png")
    assert not list(tmp_path.iterdir())


def test_widths_of_groups_are_plotted_before_and_after(tmp_path):
    """From a model, a report, the history of a callback, or groups."""
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(8, name="one"),
            layers.Dense(4, name="two"),
            layers.Dense(2, name="last"),
        ]
    )
    groups = ka.unit_groups(model)
    first = ka.shrink(model, ka.Removal({"one": [0, 1]}))
    second = ka.shrink(model, ka.Removal({"one": [0], "two": [3]}))
    events = [
        SimpleNamespace(units={"one": (8, 6), "two": (4, 4)}),
        SimpleNamespace(units={"one": (6, 5), "two": (4, 3)}),
    ]

    def shown(*given, **named):
        (axes,) = ka.plot_groups(*given, **named).axes
        labels = [tick.get_text() for tick in axes.get_yticklabels()]
        return dict(
            zip(labels, [t.get_text() for t in axes.texts], strict=True)
        )

    assert shown(model) == {"one": "5", "two": "3", "last": "2"}
    everything = {"one": "8 → 5", "two": "4 → 3", "last": "2"}
    assert shown(model, before=groups) == everything
    assert shown(model, before=events) == everything
    assert shown(first) == {"one": "8 → 6"}
    assert shown(events) == {"one": "8 → 5", "two": "4 → 3"}
    assert shown(model, before=second)["one"] == "6 → 5"
    ka.plot_groups(model, tmp_path / "groups.svg", before=groups)
    assert "<svg" in (tmp_path / "groups.svg").read_text()


@pytest.mark.parametrize("groups", [[], None, "model", [1, 2]])
def test_no_widths_to_plot_is_an_error(groups):
    with pytest.raises(ValueError, match=r"Expected `groups` .* Received: "):
        ka.plot_groups(groups)


def test_a_report_tells_which_methods_can_prune_a_group():
    x = inputs = keras.Input((5, 4))
    x = layers.MultiHeadAttention(2, 3, 4, name="attention")(x, x)
    x = layers.Dense(6, "gelu", name="gelu")(x)
    x = layers.Dense(6, "tanh", name="tanh")(x)
    model = keras.Model(inputs, layers.Dense(2, name="last")(x))
    lines = {
        line.split()[0]: line for line in ka.report(model).splitlines()[2:]
    }
    methods = {
        name: [
            word.strip(",")
            for word in line.split()
            if word.strip(",*") in ("apoptosis", "saliency", "demon")
        ]
        for name, line in lines.items()
    }
    assert methods == {
        "attention/query/query_heads": ["saliency*"],
        "attention/query/query_dim": ["saliency*"],
        "attention/value/value_dim": ["saliency*"],
        "attention/attention_output": ["apoptosis", "saliency"],
        "gelu": ["apoptosis", "saliency", "demon"],
        "tanh": ["apoptosis", "saliency"],
        "last": [],
    }

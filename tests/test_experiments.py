"""The experiments of `examples/`: what resumes, and how rows become tables."""

import dataclasses
import re
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))

import datasets  # noqa: E402
import results  # noqa: E402
from experiments import rows, training  # noqa: E402

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch",
    reason="experiments are the same on every backend",
)
SMALL = {"dataset": "digits", "epochs": 4, "batch_size": 32, "verbose": 0}


def build():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    model.compile("adam", "mse")
    return model


class Breaking(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


def test_a_training_resumes_as_if_it_had_never_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(training.Checkpoint, "minutes", 0)
    x = np.random.default_rng(0).normal(size=(80, 4)).astype("float32")

    def noisy(x, y, random):
        return x + random.normal(size=x.shape).astype("float32"), y

    def fit(folder, *callbacks):
        keras.utils.set_random_seed(0)
        config = training.Config(checkpoints=str(tmp_path / folder), **SMALL)
        model, log = training.fit(
            config, build, x, x[:, :2], change=noisy, callbacks=callbacks
        )
        return model.get_weights(), log.history["loss"]

    weights, losses = fit("whole")
    with pytest.raises(KeyboardInterrupt):
        fit("broken", Breaking())
    resumed, again = fit("broken")
    assert again == losses
    for one, other in zip(weights, resumed, strict=True):
        np.testing.assert_array_equal(one, other)


def row(seed, method, score, **others):
    return {"config": {"seed": seed, "method": method}, "x": score, **others}


def test_rows_become_a_table():
    found = [row(0, "plain", 1.0), row(1, "a:1", 5.0), row(0, "a:1", 2.0)]
    text = rows.markdown(
        rows.beside_plain(found),
        {
            "score": ("x", "±.1f"),
            "ratio": (lambda r: r["plain"] and r["x"] / r["plain"]["x"], ".0f"),
        },
        order=lambda mine: -mine[0]["x"],
    )
    assert text.splitlines() == [
        "| method | seeds | score | ratio |",
        "| --- | --- | --- | --- |",
        "| a:1 | 2 | 3.5 ± 1.5 |  |",  # The plain one of seed 1 is missing.
        "| plain | 1 | 1.0 | 1 |",
    ]


def test_rows_keep_six_digits(tmp_path):
    path = tmp_path / "data" / "rows.jsonl"
    rows.append(path, {"a": np.float32(1 / 3), "b": np.arange(2), 3: None})
    rows.append(path, {"a": True})
    assert rows.read(path) == [
        {"a": 0.333333, "b": [0, 1], "3": None},
        {"a": True},
    ]


def test_settings_are_what_changes_the_result():
    config = training.Config(page="x", seed=1, verbose=2)
    same = training.Config(page="y", seed=1, verbose=0)
    assert config == same
    assert config != dataclasses.replace(config, seed=2)
    assert training.Config(**rows.settings(config)) == config


def test_data_are_cut_where_they_train_only(monkeypatch):
    data = training.data_of(training.Config(samples=7, **SMALL))
    assert len(data.x_train) == len(data.y_train) == 7
    assert len(data.x_test) == len(datasets.load("digits", False).x_test)


@pytest.mark.parametrize("page", results.PAGES)
def test_tables_of_pages_are_those_of_the_rows(page):
    path = results.DOCS / "results" / f"{page}.md"
    text = path.read_text()
    marked = set(re.findall(r"<!-- (\w+) -->", text)) - {"end"}
    shown = set()
    for table, module in results.tables_of(page).items():
        found = results.rows_of(table)
        if found:
            assert results.remade(text, table, found, module) == text
            shown.add(table)
    assert marked == shown


def test_every_table_has_a_page():
    shown = {name for page in results.PAGES for name in results.tables_of(page)}
    files = {path.stem for path in results.CONF.glob("*.yaml")}
    assert files - shown == {"runner"}

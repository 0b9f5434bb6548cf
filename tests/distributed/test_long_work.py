"""Checks how long work shows how far it has come."""

import io

import keras
import numpy as np
import pytest
import rich
from rich.console import Console

import keras_apoptosis as ka
from keras_apoptosis.distributed import long_work
from keras_apoptosis.distributed.long_work import quiet, tracked


@pytest.fixture(autouse=True)
def _everything_is_long(monkeypatch) -> None:
    monkeypatch.setattr(long_work, "PATIENCE", -1.0)


@pytest.fixture
def terminal(monkeypatch) -> io.StringIO:
    """What a terminal shows."""
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    monkeypatch.setattr(rich, "get_console", lambda: console)
    return console.file


def test_a_terminal_shows_a_bar(terminal, capsys):
    assert list(tracked("abc", "Counting", 3)) == ["a", "b", "c"]
    assert "Counting" in terminal.getvalue()
    assert "3/3" in terminal.getvalue()
    assert not capsys.readouterr().out


def test_a_log_gets_one_line(capsys):
    assert list(tracked("abc", "Counting")) == ["a", "b", "c"]
    assert capsys.readouterr().out == "Counting: 3 in 0 s\n"


def test_short_work_shows_nothing(capsys, terminal, monkeypatch):
    monkeypatch.setattr(long_work, "PATIENCE", 60.0)
    assert list(tracked("abc", "Counting")) == ["a", "b", "c"]
    assert terminal.getvalue() + capsys.readouterr().out == ""


def test_work_within_work_does_not_show(capsys):
    for _ in tracked("ab", "Counting"):
        list(tracked("abc", "Spelling"))
    assert capsys.readouterr().out.split(":")[0] == "Counting"


def test_work_that_stops_early_does_not_hide_what_follows(capsys):
    first, second = tracked("ab", "Counting"), tracked("abc", "Spelling")
    next(first)
    next(second)
    first.close()
    second.close()
    list(tracked("a", "Ending"))
    assert capsys.readouterr().out.split(":")[0] == "Ending"


def test_silence(capsys):
    with quiet():
        list(tracked("abc", "Counting"))
    keras.config.disable_interactive_logging()
    try:
        list(tracked("abc", "Counting"))
    finally:
        keras.config.enable_interactive_logging()
    assert not capsys.readouterr().out


@pytest.mark.parametrize("verbose", [0, 1])
def test_passes_for_each_unit_show(verbose, capsys):
    """Those of a callback as far as it prints."""
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(4), keras.layers.Dense(1)]
    )
    model.compile("sgd", "mse")
    sample = np.ones((4, 2), "float32"), np.ones((4, 1), "float32")
    pruning = ka.callbacks.SaliencyPruning(
        "mean_replacement_penalty",
        schedule=ka.schedules.AtEpochs({1: 0.5}),
        data=sample,
        verbose=verbose,
    )
    model.fit(*sample, verbose=0, callbacks=[pruning])
    shown = "Replacing units one by one: 4 in" in capsys.readouterr().out
    assert shown == bool(verbose)

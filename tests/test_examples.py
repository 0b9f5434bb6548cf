"""Every script of `examples/` runs: on real digits, and only for a moment.

Where a script is about another dataset, the digits take its shape.
"""

import runpy
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3), "higgs": (28,)}
DEMON = "cifar_demon.py --samples 128 --epochs 1 --batch-size 32"
RUNS = [
    "mnist_apoptosis.py --epochs 4 --width 16",
    "mnist_apoptosis.py --epochs 4 --model cnn --samples 256",
    "mnist_dead_units.py pruning --samples 320 --epochs 5",
    "mnist_dead_units.py saliencies --samples 320 --epochs 1",
    "mnist_dead_units.py attack --samples 320 --epochs 1",
    "mlp_demon.py --dataset digits --epochs 2",
    "mlp_demon.py --dataset higgs --samples 256 --epochs 1",
    f"{DEMON} --pool 4 --width 4 --methods plain demon:0.01 demon_static:0.01 "
    "demon_target:0.5 snap:0.3 cropit:0.3 early_snap:0.3 early_crop:0.3 "
    "slimming:0.3 magnitude:0.3",
    f"{DEMON} --model vgg_16 --width 2 --size 32 --augment",
    f"{DEMON} --model resnet_50 --width 2 --optimizer sgd",
    f"{DEMON} --model vit_b16 --width 24 --depth 1 --accumulate 2",
    "cifar_mlp_stripping.py --sizes 2x256 --seeds 1 --samples 256 --epochs 2",
    "vit_stripping.py --seeds 1 --samples 128 --epochs 1 --layers 1 --width 16 "
    "--heads 2 --expansion 2 --batch-size 64 --augment randaugment",
    "vit_pruning.py --dataset digits --seeds 1 --epochs 2 --width 8 --layers 1 "
    "--heads 2",
    "distributed_mnist.py --dataset digits --epochs 1",
]


def digits_as(shape):
    """A reader of the digits, of another shape: pixels are repeated."""

    def read(say):
        from datasets import READERS

        parts = READERS["digits"](say)
        x, y, x_test, y_test = parts
        return _as(x, shape), y, _as(x_test, shape), y_test

    return read


def _as(x, shape):
    if len(shape) == 1:
        return x.reshape(len(x), -1)[:, : shape[0]]
    side = np.arange(shape[0]) * 8 // shape[0]
    return np.repeat(x[:, side][:, :, side], shape[2], 3)


@pytest.mark.skipif(
    keras.backend.backend() != "torch",
    reason="scripts are the same on every backend; on PyTorch they start fast",
)
@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.split()[0])
def test_it_runs(run, tmp_path, monkeypatch, capsys):
    script, *arguments = run.split()
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    import datasets

    for name, shape in SHAPES.items():
        monkeypatch.setitem(datasets.READERS, name, digits_as(shape))
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    assert capsys.readouterr().out

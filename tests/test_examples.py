"""Every script of `examples/` runs: on real digits, and only for a moment.

Where a script is about another dataset, the digits take its shape.
"""

import logging
import runpy
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3), "higgs": (28,)}
DEMON = "samples=128 epochs=1 batch_size=32"
RUNS = [
    "demo.py --dataset digits --epochs 4 --width 16 --seeds 1",
    "run.py -cn mnist_adam -m dataset=digits epochs=4 hidden=[16,16] seed=0",
    "run.py -cn lenet_weights -m samples=256 epochs=1 seed=0",
    "run.py -cn alexnet -m samples=64 epochs=1 tolerance=1.03",
    "run.py -cn heuristics -m dataset=digits epochs=4 hidden=[16] start=0.25 "
    "later=fixed level=normal degree=fixed,aggressive",
    "run.py -cn pretraining -m samples=256 epochs=2 hidden=[16,8] seed=0",
    "run.py -cn thesis_pruning -m samples=320 epochs=5 seed=0 "
    "method=magnitude,mrs,random",
    "run.py -cn thesis_rounds -m samples=320 epochs=2 seed=0 rounds=2 "
    "method=reconstruction:0.1,snap:0.3",
    "run.py -cn thesis_saliencies samples=64 epochs=1 moments=1",
    "run.py -cn thesis_attack_cifar samples=64 epochs=1 multiplier=100 start=1",
    "run.py -cn demon_constants -m samples=256 epochs=2 width=16 seed=0 "
    "dataset=higgs model=mlp,normalized_mlp "
    "method=plain,demon_paper:0.01,demon_target:0.8",
    "run.py -cn demon_sweep -m samples=128 epochs=1 strength=0.1 seed=0 "
    "optimizer=sgd variant=none,cosine",
    "run.py -cn demon_noise -m samples=32 epochs=1 rate=0.1 "
    "regime=sgd_noise,symmetric",
    f"run.py -cn demon_resnet_short -m {DEMON} pool=4 width=4 rounds=2 "
    "method=plain,demon:0.01,demon_static:0.01,demon_target:0.5,snap:0.3,"
    "early_crop:0.3,slimming:0.3,magnitude:0.3",
    f"run.py -cn demon_resnet {DEMON} width=2 early=null",
    f"run.py -cn demon_recalibration {DEMON} width=4",
    f"run.py -cn demon_vgg_16 {DEMON} width=2 size=32 augment=true",
    f"run.py -cn demon_resnet_50 {DEMON} width=2 optimizer=sgd",
    f"run.py -cn demon_vit_b16 {DEMON} width=24 depth=[1] accumulate=2",
    "run.py -cn stripping_mlp -m size=2x256 seed=0 samples=256 epochs=2",
    "run.py -cn stripping_vit samples=128 epochs=1 layers=1 width=16 heads=2 "
    "expansion=2 batch_size=64 augment=randaugment",
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


def _shown(path):
    """The rows as a table, and as a figure where there is one."""
    import results

    found = results.rows_of(path.stem, path.parent)
    module = results.module_of(path.stem)
    lines = module.table(found).splitlines()
    assert len({line.count("|") for line in lines[:3]}) == 1
    if hasattr(module, "draw"):
        module.draw(found, Path("figure.png"))


def _as(x, shape):
    if len(shape) == 1:
        return x.reshape(len(x), -1)[:, : shape[0]]
    side = np.arange(shape[0]) * 8 // shape[0]
    return np.repeat(x[:, side][:, :, side], shape[2], 3)


def named(run):
    """The table, or the script."""
    words = run.split()
    return words[2] if words[0] == "run.py" else words[0]


@pytest.fixture
def without_onednn():
    """Lets PyTorch convolve by itself: the networks here are very narrow.

    On processors without AVX-512 the oneDNN of PyTorch 2.13 writes beyond
    its memory in the backward pass of a 1x1 convolution with strides and
    fewer than 8 input channels, with or without this package.
    """
    import torch

    with torch.backends.mkldnn.flags(enabled=False):
        yield


@pytest.mark.skipif(
    keras.backend.backend() != "torch",
    reason="scripts are the same on every backend; on PyTorch they start fast",
)
@pytest.mark.usefixtures("without_onednn")
@pytest.mark.parametrize("run", RUNS, ids=named)
def test_it_runs(run, tmp_path, monkeypatch, capsys):
    script, *arguments = run.split()
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    # Hydra configures it anew, which would close the streams of pytest.
    monkeypatch.setattr(logging, "shutdown", lambda handlers=(): None)
    import datasets

    for name, shape in SHAPES.items():
        monkeypatch.setitem(datasets.READERS, name, digits_as(shape))
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    assert capsys.readouterr().out
    for path in Path("docs/results/data").glob("*.jsonl"):
        _shown(path)

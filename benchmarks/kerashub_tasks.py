"""Tasks of KerasHub: pruned in `fit`, and generating after it.

    KERAS_BACKEND=torch python benchmarks/kerashub_tasks.py [name ...]

Tasks of small random configs learn random labels for four epochs, with each
of three methods: units before and after, and the loss in the first and the
last epoch. Classifiers are inlined (`ka.inline`), language models as they are,
since they have to generate. Then causal language models generate greedily,
with their caches, before and after a third of each prunable group is removed:
*same* says whether the tokens are those of a copy of the full model in which
the weights that read these units are zero.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

import keras
import keras_hub
import numpy as np
from keras import ops

import keras_apoptosis as ka
from keras_apoptosis.graph import analyse
from keras_apoptosis.utils.tables import table

sys.path.insert(0, os.path.dirname(__file__))
from kerashub import CONFIGS, randomize

MODELS = keras_hub.models
CLASSIFIERS = {
    "Bert": "TextClassifier",
    "Roberta": "TextClassifier",
    "ViT": "ImageClassifier",
    "ResNet": "ImageClassifier",
}
GENERATORS = ("GPT2", "OPT", "Bloom", "Gemma", "Mistral", "Qwen")
LENGTH, ROWS = 12, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    names = parser.parse_args().names or [*CLASSIFIERS, *GENERATORS]
    rows = []
    for name in names:
        for method in METHODS:
            rows.append([name, method, *trained(name, method)])
            print(rows[-1], flush=True)
    print(
        table(
            ("task", "method", "units", "after", "first loss", "last loss"),
            rows,
        )
    )
    rows = [[n, *generated(n)] for n in names if n in GENERATORS]
    print(table(("generates", "parameters", "after", "same", "changed"), rows))


def made(name: str) -> tuple[keras.Model, Any, Any]:
    """Makes a task, with inputs and labels."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    backbone = getattr(MODELS, f"{name}Backbone")(**CONFIGS[name])
    rng = np.random.default_rng(0)
    if name in CLASSIFIERS:
        kind = getattr(MODELS, f"{name}{CLASSIFIERS[name]}")
        task = kind(backbone, num_classes=3, preprocessor=None)
        task = ka.inline(task, LENGTH)
        labels = rng.integers(0, 3, ROWS)
    else:
        kind = getattr(MODELS, f"{name}CausalLM")
        task = kind(backbone, preprocessor=None)
        labels = rng.integers(1, 50, (ROWS, LENGTH))
    inputs = {
        name: rng.normal(size=(ROWS, *tensor.shape[1:])).astype("float32")
        if "float" in tensor.dtype
        else np.ones((ROWS, LENGTH), "int32")
        if "mask" in name
        else rng.integers(0, 2, (ROWS, LENGTH)).astype("int32")
        if "segment" in name
        else rng.integers(1, 50, (ROWS, LENGTH)).astype("int32")
        for tensor in task.inputs
        for name in [tensor.name]
    }
    if len(inputs) == 1:
        (inputs,) = inputs.values()
    return task, inputs, labels


METHODS = {
    "NeuronApoptosis": lambda x, y: ka.callbacks.NeuronApoptosis(
        data=x, tolerance=0.5, min_gain=0.0
    ),
    "SaliencyPruning": lambda x, y: ka.callbacks.SaliencyPruning(
        data=(x, y), schedule=ka.schedules.OneShot(0.5)
    ),
    "DemonPruning": lambda x, y: ka.callbacks.DemonPruning(
        data=(x, y), target=ka.targets.Units(at_most=0.7)
    ),
}


def trained(name: str, method: str) -> list:
    task, x, y = made(name)
    task.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    before = units_of(task)
    callbacks = [METHODS[method](x, y)]
    try:
        history = task.fit(
            x, y, epochs=4, batch_size=8, callbacks=callbacks, verbose=0
        ).history["loss"]
    except ValueError as error:
        return [before, str(error).split(":")[0], "", ""]
    return [
        before,
        units_of(task),
        f"{history[0]:.3f}",
        f"{history[-1]:.3f}",
    ]


def units_of(model: keras.Model) -> int:
    return sum(g.size for g in ka.unit_groups(model) if g.removable)


def generated(name: str) -> list:
    """Generates before and after; see the top."""
    prompt = np.tile([[5, 6, 7, 8] + [0] * (LENGTH - 4)], (2, 1))
    given = {
        "token_ids": prompt.astype("int32"),
        "padding_mask": (prompt > 0).astype("int32"),
    }

    def tokens(model: keras.Model) -> np.ndarray:
        made = model.generate(dict(given), stop_token_ids=None)
        return np.asarray(made["token_ids"])

    models = []
    for _ in range(2):
        model, _, _ = made(name)
        randomize(model)
        model.compile(sampler="greedy")
        models.append(model)
    model, masked = models
    whole = tokens(model)
    rng = np.random.default_rng(0)
    removed: dict[int, np.ndarray] = {}
    names = {}
    for number, group in enumerate(analyse(model).groups):
        if group.removable:
            gone = rng.choice(group.size, group.size // 3, replace=False)
            removed[number] = names[group.name] = np.sort(gone)
    mask(masked, removed)
    expected = tokens(masked)
    before = model.count_params()
    ka.shrink(model, ka.Removal(names))
    found = tokens(model)
    return [
        before,
        model.count_params(),
        np.array_equal(found, expected),
        int((found != whole).sum()),
    ]


def mask(model: keras.Model, removed: dict[int, np.ndarray]) -> None:
    """Sets the weights that read some units to zero."""
    analysis = analyse(model)
    for number, gone in removed.items():
        for consumer in analysis.trace.consumers:
            labels = consumer.units.labels
            if not analysis.member(labels, number).any():
                continue
            places = analysis.positions(labels, number)[:, gone].ravel()
            kernel = np.array(ops.convert_to_numpy(consumer.kernel))
            np.moveaxis(kernel, consumer.axis, 0)[places] = 0
            consumer.kernel.assign(kernel)


if __name__ == "__main__":
    main()

r"""Trains vision transformers with GELU, ReLU, and ReLU with stripping.

    python examples/vit_stripping.py    # needs a GPU; below, a minute without
    python examples/vit_stripping.py --epochs 1 --samples 512 \
        --augment randaugment --methods relu_ss

Table II of Whitaker and Whitley, "Synaptic stripping", section IV-B, on
CIFAR-10: seven encoders with eight heads, 384 wide, and an MLP of 1,536 units;
64 patches and a class token; Adam with a weight decay of 5e-5 (decoupled here,
as Keras has it), batches of 128, 200 epochs; the rate rises to 1e-3 within 5
epochs and falls by a cosine to 1e-5. Only the first layers of the MLPs are
stripped, by units that are dead on the 10 % of the training images that are
split off for validation.

- AutoAugment: Keras has `RandAugment` and `AugMix`, but not its policies. That
  for CIFAR-10 comes from torchvision (`pip install torchvision`), on the CPU,
  whatever the backend; `--augment randaugment` does with Keras alone.
- Corrupted test images: CIFAR-10-C as published, 19 corruptions in 5
  severities, from tensorflow-datasets (`--corrupted` downloads 2.7 GB).

The paper's numbers come from 200 epochs on a GPU; this has been run in small
only: see docs/results/synaptic_stripping.md.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from cifar_mlp_stripping import DEVIATION, MEAN, machine, read
from datasets import load
from keras import layers

import keras_apoptosis as ka
from keras_apoptosis.utils.tables import table

# Table II, CIFAR-10: accuracy, NLL, both on corrupted images, #D, %A.
PAPER = {
    "gelu": (89.27, 0.423, 79.86, 0.912, "", ""),
    "relu": (88.75, 0.425, 79.14, 0.946, 1511, 64.86),
    "relu_ss": (89.29, 0.419, 80.07, 0.898, 9, 87.12),
}
AUGMENT = ("autoaugment", "randaugment", "none")


class Tokens(layers.Layer):
    """Puts a class token before the patches, and adds their positions."""

    def build(self, shape: tuple) -> None:
        _, count, width = shape
        self.token = self.add_weight(shape=(1, 1, width), name="token")
        self.position = self.add_weight(
            shape=(1, count + 1, width),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="position",
        )

    def call(self, patches: Any) -> Any:
        token = keras.ops.repeat(self.token, keras.ops.shape(patches)[0], 0)
        return keras.ops.concatenate([token, patches], 1) + self.position


class Augmented(keras.utils.PyDataset):
    """Batches of images in [0, 1], in another order each epoch."""

    def __init__(self, x: np.ndarray, y: np.ndarray, arguments, seed: int):
        super().__init__(workers=arguments.workers)
        self.x, self.y, self.size = x, y, arguments.batch_size
        self.random = np.random.default_rng(seed)
        self.augment = None
        if arguments.augment == "autoaugment":
            self.augment = autoaugment(seed)
        self.on_epoch_end()

    def __len__(self) -> int:
        return -(-len(self.x) // self.size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rows = self.order[index * self.size : (index + 1) * self.size]
        x = self.x[rows]
        return x if self.augment is None else self.augment(x), self.y[rows]

    def on_epoch_end(self) -> None:
        self.order = self.random.permutation(len(self.x))


def autoaugment(seed: int):
    """The CIFAR-10 policy, from images in [0, 1] to the like."""
    import torch
    from torchvision.transforms import v2

    policy = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)
    torch.manual_seed(seed)

    def augment(x: np.ndarray) -> np.ndarray:
        images = torch.from_numpy(
            (255 * x).astype("uint8").transpose(0, 3, 1, 2)
        )
        images = torch.stack([policy(image) for image in images])
        return images.numpy().transpose(0, 2, 3, 1).astype("float32") / 255

    return augment


def build(method: str, steps: int, arguments) -> keras.Model:
    """A compiled vision transformer."""
    width, heads = arguments.width, arguments.heads
    activation = "gelu" if method == "gelu" else "relu"
    x = inputs = keras.Input((32, 32, 3))
    if arguments.augment == "randaugment":
        x = layers.RandAugment(value_range=(0, 1))(x)
    x = layers.Normalization(mean=MEAN, variance=DEVIATION**2)(x)
    x = layers.Conv2D(width, 4, strides=4, name="patches")(x)
    x = Tokens(name="tokens")(layers.Reshape((64, width))(x))
    for number in range(1, arguments.layers + 1):
        y = layers.LayerNormalization(epsilon=1e-5)(x)
        y = layers.MultiHeadAttention(heads, width // heads)(y, y)
        x = layers.Add()([x, y])
        y = layers.LayerNormalization(epsilon=1e-5)(x)
        y = ka.layers.PrunableDense(
            arguments.expansion * width,
            activation=activation,
            name=f"mlp_{number}",
            track_statistics=method != "gelu",
        )(y)
        x = layers.Add()([x, layers.Dense(width)(y)])
    x = layers.LayerNormalization(epsilon=1e-5)(x[:, 0])
    model = keras.Model(inputs, layers.Dense(10, name="logits")(x))
    warmup = steps * arguments.warmup // arguments.epochs
    rate = keras.optimizers.schedules.CosineDecay(
        0.0,
        max(1, steps - warmup),
        alpha=0.01,  # Of the peak: 1e-5.
        warmup_target=1e-3,
        warmup_steps=warmup,
    )
    model.compile(
        keras.optimizers.Adam(rate, weight_decay=5e-5),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def train(data: Any, seed: int, method: str, arguments) -> dict[str, Any]:
    """Trains once."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    train_data = Augmented(data["x_train"], data["y_train"], arguments, seed)
    model = build(method, arguments.epochs * len(train_data), arguments)
    callbacks = []
    if method != "gelu":  # Its units are never dead.
        share = arguments.share if method == "relu_ss" else 0.0
        callbacks = [ka.callbacks.SynapticStripping(share)]
    start = time.perf_counter()
    history = model.fit(
        train_data,
        epochs=arguments.epochs,
        validation_data=(data["x_val"], data["y_val"]),
        validation_batch_size=500,
        callbacks=callbacks,
        verbose=arguments.verbose,
    ).history
    seconds = time.perf_counter() - start
    nll, accuracy = model.evaluate(
        data["x_test"], data["y_test"], batch_size=500, verbose=0
    )
    run = {
        "method": method,
        "seed": seed,
        "epochs": arguments.epochs,
        "peak_val_accuracy": max(history["val_accuracy"]),
        "test_accuracy": accuracy,
        "test_nll": nll,
        "seconds": seconds,
        "machine": machine(),
        "history": history,
    }
    if arguments.corrupted:
        run["corrupted_nll"], run["corrupted_accuracy"] = corrupted(model)
    return run


def corrupted(model: keras.Model) -> tuple[float, float]:
    """Mean loss and accuracy over all of CIFAR-10-C."""
    import tensorflow_datasets as tfds

    kinds = tfds.builder_cls("cifar10_corrupted").BUILDER_CONFIGS
    found = []
    for kind in kinds:
        images = tfds.as_numpy(
            tfds.load(
                f"cifar10_corrupted/{kind.name}", split="test", batch_size=-1
            )
        )
        x, y = images["image"].astype("float32") / 255, images["label"]
        found.append(model.evaluate(x, y, batch_size=500, verbose=0))
    nll, accuracy = np.mean(found, axis=0)
    return float(nll), float(accuracy)


def compare(runs: list[dict[str, Any]]) -> str:
    """Table II, with the paper's numbers beside ours."""
    header = "method,seed,epochs,peak val %,test %,paper,NLL,paper,"
    header += "corrupted %,paper,NLL,paper,#D,paper,%A,paper"
    rows = []
    for run in sorted(runs, key=lambda r: list(PAPER).index(r["method"])):
        history = run["history"]
        ours = (
            f"{100 * run['test_accuracy']:.2f}",
            f"{run['test_nll']:.3f}",
            _of(run, "corrupted_accuracy", "{:.2f}", 100),
            _of(run, "corrupted_nll", "{:.3f}"),
            history["dead_units"][-1] if "dead_units" in history else "",
            f"{100 * history['active_parameters'][-1]:.2f}"
            if "dead_units" in history
            else "",
        )
        rows.append(
            (
                run["method"],
                str(run["seed"]),
                run["epochs"],
                f"{100 * run['peak_val_accuracy']:.2f}",
                *(
                    c
                    for p in zip(ours, PAPER[run["method"]], strict=True)
                    for c in p
                ),
            )
        )
    return table(header.split(","), rows)


def _of(run: dict[str, Any], name: str, form: str, scale: float = 1.0) -> str:
    return form.format(scale * run[name]) if name in run else "not run"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--methods", nargs="+", choices=PAPER, default=list(PAPER))
    add("--seeds", type=int, default=2, help="how many, from 0")
    add("--epochs", type=int, default=200)
    add("--warmup", type=int, default=5, help="epochs")
    add("--batch-size", type=int, default=128)
    add("--layers", type=int, default=7)
    add("--heads", type=int, default=8)
    add("--width", type=int, default=384)
    add("--expansion", type=int, default=4)
    add("--share", type=float, default=0.1)
    add("--augment", choices=AUGMENT, default=AUGMENT[0])
    add("--corrupted", action="store_true", help="test on CIFAR-10-C as well")
    add("--samples", type=int, help="to train on; a quarter to judge on")
    add("--workers", type=int, default=1, help="threads that augment")
    add("--output", type=Path, default=Path("output/vit_stripping"))
    add("--verbose", type=int, default=2, help="as in `fit`")
    return parser.parse_args()


def main() -> None:
    """Trains all, prints the table."""
    arguments = parse()
    dataset = load("cifar10")
    data = {}
    for part in ("train", "val", "test"):
        few = arguments.samples
        rows = few if part == "train" or few is None else few // 4
        for name in (f"x_{part}", f"y_{part}"):
            data[name] = getattr(dataset, name)[:rows]
    arguments.output.mkdir(parents=True, exist_ok=True)
    results = arguments.output / "runs.jsonl"
    for seed in range(arguments.seeds):
        for method in arguments.methods:
            print(f"\n== Seed {seed}: {method}", flush=True)
            run = train(data, seed, method, arguments)
            with results.open("a") as file:
                file.write(json.dumps(run) + "\n")
    runs = read(results)
    print(f"\n{compare(runs)}")
    print("\n".join(sorted({run["machine"] for run in runs})))
    print(f"Runs are in {results}")


if __name__ == "__main__":
    main()

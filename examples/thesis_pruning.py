"""Pruning while the thesis' network trains (sections 2.2 and 4.2)."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from thesis_network import build, kernel_of, sample_of

import keras_apoptosis as ka
from keras_apoptosis.utils.tables import table

schedules = ka.schedules
FRACTIONS_OF_WEIGHTS = {2: 0.2, 3: 0.5, 4: 0.8, 5: 0.9}  # Table 2.2.
FRACTIONS_OF_UNITS = {2: 0.1, 3: 0.2, 4: 0.4, 5: 0.6}  # Table 4.2.
THESIS = ("units, thesis 4.2", 4019, 98.42)


def saliency_pruning(criterion: str, sample: Any, **arguments: Any):
    return ka.callbacks.SaliencyPruning(criterion, data=sample, **arguments)


# What prunes, by name: made from a training sample.
METHODS: dict[str, Callable[[Any], list]] = {
    "plain": lambda sample: [],
    "weights, magnitude (2.2)": lambda sample: [
        saliency_pruning(
            "magnitude",
            sample,
            granularity="weights",
            scope="global",
            schedule=schedules.AtEpochs(FRACTIONS_OF_WEIGHTS),
        )
    ],
    "units, MRS (4.2)": lambda sample: [
        saliency_pruning(
            "mean_replacement_saliency",
            sample,
            schedule=schedules.AtEpochs(FRACTIONS_OF_UNITS),
        )
    ],
    "units, random (4.2)": lambda sample: [
        saliency_pruning(
            "random",
            sample,
            schedule=schedules.AtEpochs(FRACTIONS_OF_UNITS),
        )
    ],
    "ours, reconstruction 0.05": lambda sample: [apoptosis(sample, 0.05)],
    "ours, reconstruction 0.10": lambda sample: [apoptosis(sample, 0.10)],
    "ours, reconstruction 0.15": lambda sample: [apoptosis(sample, 0.15)],
    "Adam, plain": lambda sample: [],
    "Adam, reconstruction 0.10": lambda sample: [apoptosis(sample, 0.10)],
    "Adam, reconstruction 0.15": lambda sample: [apoptosis(sample, 0.15)],
    "Adam, reconstruction 0.20": lambda sample: [apoptosis(sample, 0.20)],
}


def apoptosis(sample: Any, tolerance: float) -> ka.callbacks.NeuronApoptosis:
    """Units leave by least squares, a quarter and half-way through."""
    return ka.callbacks.NeuronApoptosis(
        data=sample[0],
        tolerance=tolerance,
        schedule=schedules.Logarithmic(start=0.2, ratio=1.6),
        min_gain=0.05,
    )


def train(data: Any, method: str, seed: int, arguments: Any) -> dict[str, Any]:
    """Trains once, and judges."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    model = build()
    size = 32
    if method.startswith("Adam"):  # Ours: not the thesis' training.
        size = 128
        steps = arguments.epochs * -(-len(data.y_train) // size)
        rate = keras.optimizers.schedules.CosineDecay(3e-3, steps)
        model.compile(
            keras.optimizers.Adam(rate), model.loss, metrics=["accuracy"]
        )
    parameters = model.count_params()
    callbacks = METHODS[method](sample_of(data, seed))
    start = time.perf_counter()
    history = model.fit(
        data.x_train,
        data.y_train,
        batch_size=size,
        epochs=arguments.epochs,
        validation_data=(data.x_val, data.y_val),
        validation_batch_size=500,
        callbacks=callbacks,
        verbose=arguments.verbose,
    ).history
    seconds = time.perf_counter() - start
    run = {
        "method": method,
        "seed": seed,
        "epochs": arguments.epochs,
        "parameters_at_first": parameters,
        **judged(model, data),
        "seconds": seconds,
        "events": [str(event) for each in callbacks for event in each.history],
        "history": history,
        "machine": machine(),
    }
    if method.startswith("weights"):
        run["after_removal"] = {
            str(share): judged(removed(model, share, data, seed), data)
            for share in (0.0, 0.02, 0.05, 0.1, 0.2, 0.3)
        }
    if seed == 0:
        run["fc1"] = kernel_of(model, "fc1").tolist()
    return run


def judged(model: keras.Model, data: Any) -> dict[str, Any]:
    """Size and accuracies; masked weights and masks are no parameters."""
    masked = [
        int((~keras.ops.convert_to_numpy(layer.kernel_mask.value)).sum())
        for layer in model.layers
        if getattr(layer, "kernel_mask", None) is not None
    ]
    small = ka.strip_pruning(model)
    small.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    _, val = small.evaluate(data.x_val, data.y_val, 500, verbose=0)
    _, test = small.evaluate(data.x_test, data.y_test, 500, verbose=0)
    return {
        "parameters": small.count_params(),
        "weights_left": small.count_params() - sum(masked),
        "val_accuracy": val,
        "test_accuracy": test,
        "widths": [
            layer.get_weights()[1].size
            for layer in small.layers
            if layer.weights
        ],
    }


def removed(model: keras.Model, share: float, data: Any, seed: int) -> Any:
    """The model without units that have lost most weights (figure 2.11)."""
    sample = sample_of(data, seed)[0]
    removal = ka.selection.sparse_units(model, sample, share=share)
    return ka.rebuild(model, removal)


def machine() -> str:
    return (
        f"keras {keras.__version__} on {keras.backend.backend()}, "
        f"{platform.machine()}"
    )


def prune(data: Any, arguments: Any) -> None:
    """Sections 2.2 and 4.2."""
    path = Path(arguments.out) / "mnist_dead_units.jsonl"
    runs = read(path)
    done = {(run["method"], run["seed"], run["epochs"]) for run in runs}
    wanted = [
        (method, seed)
        for seed in range(arguments.seeds)
        for method in METHODS
        if (method, seed, arguments.epochs) not in done
    ]
    for number, (method, seed) in enumerate(wanted, 1):
        print(f"[{number}/{len(wanted)}] {method}, seed {seed}", flush=True)
        run = train(data, method, seed, arguments)
        runs.append(run)
        with path.open("a") as file:
            file.write(json.dumps(run) + "\n")
        print(
            f"    {run['parameters']:,} parameters, "
            f"{run['weights_left']:,} of them not masked, validation "
            f"{run['val_accuracy']:.2%}, {run['seconds']:.0f} s",
            flush=True,
        )
    runs = [run for run in runs if run["epochs"] == arguments.epochs]
    print(pruning_table(runs))
    print(removal_table(runs))
    if not arguments.no_figures:
        draw_pruning(runs, Path(arguments.out) / "mnist_pruning.png")


def read(path: Path) -> list[dict[str, Any]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def pruning_table(runs: list[dict[str, Any]]) -> str:
    rows = [(THESIS[0], "", f"{THESIS[1]:,}", "", f"{THESIS[2]:.2f}", "")]
    for method in METHODS:
        mine = [run for run in runs if run["method"] == method]
        if not mine:
            continue
        left = np.mean([run["weights_left"] for run in mine])
        rows.append(
            (
                method,
                len(mine),
                f"{np.mean([run['parameters'] for run in mine]):,.0f}",
                f"{left:,.0f}",
                spread([100 * run["test_accuracy"] for run in mine]),
                f"{np.mean([run['seconds'] for run in mine]):.0f}",
            )
        )
    return table(
        (
            "pruned",
            "seeds",
            "parameters",
            "not masked",
            "test accuracy %",
            "seconds",
        ),
        rows,
    )


def removal_table(runs: list[dict[str, Any]]) -> str:
    """Figure 2.11: units that lost their weights are removed."""
    mine = [run for run in runs if "after_removal" in run]
    rows = []
    for share in mine[0]["after_removal"] if mine else ():
        found = [run["after_removal"][share] for run in mine]
        rows.append(
            (
                f"{float(share):.0%}",
                f"{np.mean([each['parameters'] for each in found]):,.0f}",
                spread([100 * each["test_accuracy"] for each in found]),
            )
        )
    return table(
        ("units with at most … non-zero", "parameters", "test accuracy %"),
        rows or [("", "", "")],
    )


def spread(values: list[float]) -> str:
    return f"{np.mean(values):.2f} ± {np.std(values):.2f}"


def draw_pruning(runs: list[dict[str, Any]], path: Path) -> None:
    """Figures 2.8 and 4.6, and the colour maps of 2.10 and 4.9."""
    from matplotlib.figure import Figure

    shown = ["plain", "weights, magnitude (2.2)", "units, MRS (4.2)"]
    first = {
        run["method"]: run
        for run in runs
        if run["seed"] == 0 and run["method"] in shown
    }
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1))
    loss, size = above.subplots(1, 2)
    for method, run in first.items():
        history = run["history"]
        epochs = np.arange(1, len(history["loss"]) + 1)
        loss.plot(epochs, history["loss"], marker=".", label=method)
        left = np.array(history.get("parameters", [run["parameters"]]))
        left = np.broadcast_to(left, epochs.shape)
        left = left - np.array(history.get("masked_weights", 0))
        size.plot(epochs, left, marker=".", label=method)
    loss.set(title="training loss", xlabel="epoch", yscale="log")
    size.set(title="weights left", xlabel="epoch", ylim=(0, None))
    for axes in (loss, size):
        axes.legend(frameon=False, fontsize="small")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    for axes, (method, run) in zip(
        below.subplots(1, len(first), squeeze=False)[0],
        first.items(),
        strict=True,
    ):
        kernel = np.abs(np.array(run["fc1"])).T
        axes.imshow(kernel, aspect="auto", interpolation="nearest")
        axes.set(title=f"fc1, {method}", xlabel="inputs", ylabel="units")
    figure.savefig(path, dpi=130)
    print(f"Figure: {path}")

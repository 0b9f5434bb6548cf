"""A snippet of each method, as users write it, on real data.

    python benchmarks/default_snippets.py --seeds 3

They get what they leave out: data, a model, and what `model.compile(...)` is
to be. Plain training is the same snippet without its callback, from the same
seed; its moving statistics are computed anew in the end, as methods do it.
Training rows are an excerpt; test rows are used once, at the end.

Every training is written to a file at once, and not repeated when the command
is given again; `--table` prints what the file has.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from keras import layers

import keras_apoptosis as ka
from keras_apoptosis.utils.tables import table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples"))
from datasets import Dataset, load  # noqa: E402

SNIPPETS = {
    "NeuronApoptosis": """
import keras, keras_apoptosis as ka

model = keras.Sequential(
    [
        keras.Input((28, 28)),
        keras.layers.Flatten(),
        ka.layers.FeatureSelection(),  # pixels leave, too
        keras.layers.Dense(1024, activation="relu"),
        keras.layers.Dense(1024, activation="relu"),
        keras.layers.Dense(10),
    ]
)
model.compile(
    "adam",
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
apoptosis = ka.callbacks.NeuronApoptosis(
    target=ka.targets.Parameters(at_most=0.03),
    schedule=ka.schedules.Logarithmic(0.125),
    data=x[:4096],
)
model.fit(x, y, batch_size=128, epochs=16, callbacks=[apoptosis])
model.summary()  # smaller
model.save("small.keras")  # without FeatureSelection any Keras loads it
""",
    "SynapticStripping": """
model = ka.make_prunable(model, track_statistics=True)
model.compile(...)
model.fit(
    x,
    y,
    epochs=50,
    validation_data=(xv, yv),
    callbacks=[ka.callbacks.SynapticStripping(share=0.1)],
)
ka.shrink(model, ka.selection.dead_units(model, xv))  # what stayed dead
model = ka.strip_pruning(model)  # plain layers, masks folded in
""",
    "SaliencyPruning": """
pruning = ka.callbacks.SaliencyPruning(
    "mean_replacement_saliency",
    schedule=ka.schedules.AtEpochs({2: 0.2, 3: 0.3, 4: 0.45}),
    data=(x[:1000], y[:1000]),
    replacement="least_squares",
)
model.fit(x, y, epochs=10, callbacks=[pruning])
""",
    "DemonPruning": """
demon = ka.callbacks.DemonPruning(
    target=ka.targets.Parameters(at_most=0.3),
    data=x[:512],  # judges units each twentieth of the training
)
model.fit(x, y, epochs=50, callbacks=[demon])
""",
}
METHODS = tuple(SNIPPETS)
COMPILED = """model.compile(
    "adam",
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)"""


def code_of(snippet: str, data: Dataset, plain: bool) -> str:
    """Returns a snippet with the shape and the `compile` that it leaves open.

    Plain, it is the same without its callbacks.
    """
    shape = f"keras.Input({data.input_shape})"
    code = snippet.replace("keras.Input((28, 28))", shape)
    code = code.replace("model.compile(...)", COMPILED)
    return re.sub(r"callbacks=\[.*\]", "callbacks=[]", code) if plain else code


def model_for(method: str, data: Dataset) -> keras.Model:
    """A model for a snippet that has none: an MLP, or a CNN to normalize."""
    model = keras.Sequential([keras.Input(data.input_shape)])
    if method == "SynapticStripping":
        model.add(layers.Flatten())
        for _ in range(2):
            model.add(layers.Dense(512, activation="relu"))
    else:
        for filters, strides in ((16, 2), (32, 1), (32, 2), (64, 2)):
            model.add(
                layers.Conv2D(
                    filters, 3, strides, padding="same", use_bias=False
                )
            )
            model.add(layers.BatchNormalization())
            model.add(layers.ReLU())
        model.add(layers.GlobalAveragePooling2D())
    model.add(layers.Dense(data.num_classes))
    return model


def train(
    method: str, data: Dataset, seed: int, plain: bool, rows: int
) -> dict[str, Any]:
    """Runs a snippet once, and judges the model that it leaves."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    names: dict[str, Any] = {
        "keras": keras,
        "ka": ka,
        "x": data.x_train[:rows],
        "y": data.y_train[:rows],
        "xv": data.x_val[:2000],
        "yv": data.y_val[:2000],
    }
    snippet = SNIPPETS[method]
    units = before = 0
    if "keras.Sequential(" not in snippet:
        names["model"] = model_for(method, data)
        exec(COMPILED, names)
        before, units = names["model"].count_params(), _units(names["model"])
    start = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):
        exec(code_of(snippet, data, plain), names)
    seconds = time.perf_counter() - start
    model = names["model"]
    if plain:
        # As methods with data leave it: moving statistics lag behind.
        ka.recalibrate(model, names["x"])
    accuracy = {
        part: model.evaluate(x, y, batch_size=500, verbose=0)[1]
        for part, x, y in (
            ("val", names["xv"], names["yv"]),
            ("test", data.x_test, data.y_test),
        )
    }
    return {
        "data": data.name,
        "method": method,
        "snippet": snippet,
        "seed": seed,
        "plain": plain,
        "rows": rows,
        **accuracy,
        "before": before or model.count_params(),
        "parameters": model.count_params(),
        "flops": ka.flops(model),
        # The second snippet removes what is dead in the end.
        "dead": max(0, units - _units(model)),
        "seconds": seconds,
    }


def _units(model: keras.Model) -> int:
    return sum(group.size for group in ka.unit_groups(model))


def compare(runs: list[dict[str, Any]]) -> str:
    """The table: each snippet beside the same without its callback."""
    rows = []
    pairs: dict[tuple, dict[bool, list]] = {}
    for run in runs:
        both = pairs.setdefault((run["method"], run["data"]), {})
        both.setdefault(run["plain"], []).append(run)
    for method in METHODS:
        for (name, data), both in pairs.items():
            if name == method and len(both) == 2:
                rows.append(_row(method, data, both[True], both[False]))
    header = (
        "snippet,data,seeds,plain %,pruned %,change pp,validation,parameters,"
    )
    header += "left,fewer,MFLOPs,left,dead units,left,seconds,pruned"
    return table(header.split(","), rows) if rows else "No trainings yet."


def _row(method: str, data: str, plain: list, pruned: list) -> list[str]:
    def mean(runs: list, name: str) -> float:
        return float(np.mean([run[name] for run in runs]))

    def both(name: str, form: str, scale: float = 1.0) -> list[str]:
        return [f"{mean(r, name) / scale:{form}}" for r in (plain, pruned)]

    before = mean(plain, "before")
    stripping = method == "SynapticStripping"
    changes = [
        f"{100 * (mean(pruned, part) - mean(plain, part)):+.2f}"
        for part in ("test", "val")
    ]
    return [
        method,
        data,
        f"{len(pruned)}",
        *both("test", ".2f", 0.01),
        *changes,
        f"{before:,.0f}",
        f"{mean(pruned, 'parameters'):,.0f}",
        f"{before / mean(pruned, 'parameters'):.1f}x",
        *both("flops", ".3f", 1e6),
        *(both("dead", ".0f") if stripping else ["", ""]),
        *both("seconds", ".0f"),
    ]


def main() -> None:
    """Runs what the file does not have yet, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--datasets", nargs="+", default=["mnist", "cifar10"])
    add("--methods", nargs="+", choices=METHODS, default=METHODS)
    add("--rows", type=int, default=16_000, help="of the training part")
    add("--seeds", type=int, default=1, help="how many, from 0")
    add("--first-seed", type=int, default=0)
    add("--runs", type=Path, default=Path("output/default_snippets.jsonl"))
    add("--table", action="store_true", help="only print the table")
    arguments = parser.parse_args()
    path = arguments.runs
    runs = []
    if path.exists():
        runs = [json.loads(line) for line in path.read_text().splitlines()]
    if not arguments.table:
        path.parent.mkdir(parents=True, exist_ok=True)
        _train_all(arguments, runs, path)
    print(compare(runs))
    print(
        f"\nkeras {keras.__version__} on {keras.backend.backend()}, "
        f"{os.cpu_count()} CPUs, {platform.machine()}"
    )


def _train_all(
    arguments: argparse.Namespace, runs: list[dict[str, Any]], path: Path
) -> None:
    keys = ("data", "method", "seed", "plain", "rows")
    done = {tuple(run[key] for key in (*keys, "snippet")) for run in runs}
    first = arguments.first_seed
    for seed in range(first, first + arguments.seeds):
        for name in arguments.datasets:
            data = load(name, verbose=False)
            for method in arguments.methods:
                for plain in (True, False):
                    asked = (name, method, seed, plain, arguments.rows)
                    if (*asked, SNIPPETS[method]) in done:
                        continue
                    run = train(method, data, seed, plain, arguments.rows)
                    runs.append(run)
                    with path.open("a") as file:
                        file.write(json.dumps(run) + "\n")
                    shown = {k: v for k, v in run.items() if k != "snippet"}
                    print(shown, flush=True)


if __name__ == "__main__":
    main()

"""What of models can be pruned, and how exactly: a table.

Each is measured twice: as it is, and inlined (`ka.inline`). A third of every
prunable group is removed at once; the outputs are compared with those of the
full model in which these units are set to zero (`tests/masking.py`), and the
largest difference is given as a part of the largest output. The small model is
saved, and loaded in a process that does not import this package. *Share* is
the part of the parameters in slices that units of prunable groups own, *with
streams* the same under `prune_normalized=True`. `--reasons` lists why groups
are not prunable.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np

import keras_apoptosis as ka
from keras_apoptosis.graph import analyse
from keras_apoptosis.graph.groups import Allowed
from keras_apoptosis.utils.tables import table

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from tests.masking import masked_outputs, outputs_of

HEADER = (
    "parameters",
    "as it is: groups",
    "prunable",
    "share",
    "after",
    "difference",
    "loaded",
    "inlined: groups",
    "prunable",
    "share",
    "with streams",
    "after",
    "difference",
    "loaded",
)
LOADER = """
import importlib, json, pathlib, sys
import keras
import numpy as np
importlib.import_module(sys.argv[2])
found = {}
for file in sorted(pathlib.Path(sys.argv[1]).glob("*.keras")):
    with np.load(file.with_suffix(".npz")) as data:
        inputs = [data[f"x{n}"] for n in range(sum("x" in k for k in data))]
        try:
            model = keras.saving.load_model(file)
            given = inputs if len(inputs) > 1 else inputs[0]
            if hasattr(model, "_inputs_struct"):
                into = model._inputs_struct
                given = keras.tree.pack_sequence_as(into, inputs)
            made = keras.tree.flatten(model(given, training=False))
            found[file.stem] = max(
                float(np.max(np.abs(np.asarray(y) - data[f"y{n}"])))
                for n, y in enumerate(map(keras.ops.convert_to_numpy, made))
                if data[f"y{n}"].dtype != bool
            )
        except Exception as error:
            found[file.stem] = repr(error)[:300]
assert "keras_apoptosis" not in sys.modules
print("RESULT" + json.dumps(found))
"""


@dataclasses.dataclass(frozen=True)
class Case:
    """A model to measure.

    Args:
        model: The model.
        inputs: What it is called on.
        length: The length at which it is inlined.
    """

    model: keras.Model
    inputs: Any
    length: Mapping[str, int] | None = None


def main(
    what: str, names: Iterable[str], made: Callable[[str], Case], module: str
) -> None:
    """Measures models and prints the table.

    Args:
        what: The header of the column of names.
        names: All that there are; arguments of the script choose some.
        made: Makes one.
        module: What a process imports that loads them.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--reasons", action="store_true")
    arguments = parser.parse_args()
    rows: dict[str, list] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.names or names:
            rows[name] = []
            try:
                case = made(name)
                model, inputs = case.model, case.inputs
                rows[name].append(f"{model.count_params():,}")
                inlined = ka.inline(model, case.length)
                for kind, each in (("", model), ("-inlined", inlined)):
                    file = pathlib.Path(folder, f"{name}{kind}")
                    found = measured(each, file, inputs, bool(kind))
                    rows[name].extend([*found, ""])  # Loaded, later.
                    if arguments.reasons:
                        tell_reasons(each)
            except Exception as error:
                if arguments.names:
                    traceback.print_exc()
                print(f"{name}: {type(error).__name__}: {str(error)[:300]}")
            print(name, rows[name], flush=True)
        loaded = load_elsewhere(folder, module)
    for name, row in rows.items():
        for place, kind in ((6, ""), (13, "-inlined")):
            found = loaded.get(f"{name}{kind}", "not saved")
            if len(row) > place:
                exact = isinstance(found, float)
                row[place] = f"{found:.1e}" if exact else found[:60]
    whole = len(HEADER)
    cells = [[n, *row, *["-"] * (whole - len(row))] for n, row in rows.items()]
    print(table((what, *HEADER), cells))


def measured(
    model: keras.Model, file: pathlib.Path, inputs: Any, inlined: bool
) -> list:
    analysis = analyse(model)
    shares = [f"{share_of(analysis):.0%}"]
    if inlined:
        streams = analyse(model, Allowed(normalized=True))
        shares.append(f"{share_of(streams):.0%}")
    rng = np.random.default_rng(0)
    removal = ka.Removal(
        {
            group.name: np.sort(
                rng.choice(group.size, max(1, group.size // 3), replace=False)
            )
            for group in analysis.groups
            if group.removable and group.size > 1
        }
    )
    expected = masked_outputs(model, removal, keras.tree.flatten(inputs))
    if removal:
        ka.shrink(model, removal)
    found = outputs_of(model, inputs)
    difference = max(
        float(np.max(np.abs(one - other)) / np.max(np.abs(one)))
        for one, other in zip(expected, found, strict=True)
        if one.dtype != bool
    )
    try:
        model.save(file.with_suffix(".keras"))
    except Exception as error:  # A class without a config of its own.
        print(f"{file.name} cannot be saved: {str(error)[:200]}")
        file.with_suffix(".keras").unlink(missing_ok=True)
    np.savez(
        file.with_suffix(".npz"),
        **{f"x{n}": x for n, x in enumerate(keras.tree.flatten(inputs))},
        **{f"y{n}": y for n, y in enumerate(found)},
    )
    return [
        len(analysis.groups),
        sum(group.removable for group in analysis.groups),
        *shares,
        f"{model.count_params():,}",
        f"{difference:.1e}",
    ]


def tell_reasons(model: keras.Model) -> None:
    reasons = collections.Counter(
        group.reason for group in ka.unit_groups(model) if group.reason
    )
    for reason, count in reasons.most_common(20):
        print(f"   {count} x {reason[:300]}")


def share_of(analysis) -> float:
    """The part of the parameters that units of prunable groups own."""
    prunable = np.append([g.removable for g in analysis.groups], False)
    group_of = np.append(analysis.group_of, -1)
    owned = 0
    weights = analysis.graph.model.weights
    for variable in weights:
        axes = analysis.trace.axes.get(id(variable), {})
        free = np.zeros(tuple(variable.shape), bool)
        for axis, labels in axes.items():
            mine = prunable[group_of[labels]]
            shape = [1] * free.ndim
            shape[axis] = mine.size
            free |= mine.reshape(shape)
        owned += int(free.sum())
    return owned / sum(math.prod(v.shape) for v in weights)


def randomize(model: keras.Model) -> None:
    """Gives every weight, biases and normalizations too, a random value."""
    rng = np.random.default_rng(1)
    for variable in model.weights:
        shape = tuple(variable.shape)
        if "float" not in variable.dtype:
            continue
        if "variance" in variable.path:
            value = rng.uniform(0.5, 1.5, shape)
        elif len(shape) < 2:
            value = rng.choice([-1, 1], shape) * rng.uniform(0.3, 1.0, shape)
        else:
            value = rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))
        variable.assign(value)


def random_inputs(
    model: keras.Model, drawn: Callable[[Any, np.random.Generator], np.ndarray]
) -> Any:
    """Returns an array for each input of a functional model."""
    rng = np.random.default_rng(2)
    into = getattr(model, "_inputs_struct", model.inputs[0])
    return keras.tree.map_structure(lambda tensor: drawn(tensor, rng), into)


def load_elsewhere(folder: str, module: str) -> dict:
    """Loads all models of a folder in another process.

    Returns:
        By how much outputs differ from those of the saved model, by name, or
        the error.
    """
    path = [p for p in sys.path if p and "site-packages" not in p]
    done = subprocess.run(
        [sys.executable, "-c", LOADER, folder, module],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        check=False,
    )
    for line in done.stdout.splitlines():
        if line.startswith("RESULT"):
            return json.loads(line.removeprefix("RESULT"))
    return {"": done.stderr[-2000:]}

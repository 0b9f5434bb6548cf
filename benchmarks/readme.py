"""The README's snippet, as it stands, beside the same without its callback.

    python benchmarks/readme.py --seeds 3

The code block is read from README.md and executed from each seed. What the
two of a seed differ by is judged on the test images of the snippet.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from keras_apoptosis.utils.tables import table

ROOT = Path(__file__).resolve().parents[1]
PLAIN = ("callbacks=[apoptosis]", "callbacks=[]")


def run(code: str, seed: int) -> tuple[np.ndarray, int]:
    """Which test rows it classifies correctly, and its parameters."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    names: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):
        exec(code, names)
    found = names["model"].predict(names["x_test"], verbose=0).argmax(-1)
    return found == names["y_test"], names["model"].count_params()


def main() -> None:
    """Trains both from each seed, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    seeds = range(parser.parse_args().seeds)
    code = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )[0]
    assert PLAIN[0] in code
    rows, differences = [], []
    for seed in seeds:
        plain, before = run(code.replace(*PLAIN), seed)
        pruned, after = run(code, seed)
        differences.append(100.0 * pruned - 100.0 * plain)
        accuracies = [f"{100 * right.mean():.2f}" for right in (plain, pruned)]
        rows.append((seed, *accuracies, before, after))
    print(table(["seed", "plain %", "pruned %", "parameters", "left"], rows))
    each = np.mean(differences, axis=0)  # Of a test row.
    half = 1.96 * each.std(ddof=1) / np.sqrt(len(each))
    print(
        f"\nchange: {each.mean():+.2f} ± {half:.2f} points (95 % interval over "
        f"{len(each)} test images); keras {keras.__version__} on "
        f"{keras.backend.backend()}"
    )


if __name__ == "__main__":
    main()

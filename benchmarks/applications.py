"""Every model of `keras.applications`: a third of every group leaves at once.

    python benchmarks/applications.py [name ...]

Each model has random weights, biases and normalizations too. Its outputs after
surgery are compared with those of the full model in which the removed units
are set to zero (`tests/masking.py`), and the largest difference is given as a
part of the largest output. Where frozen groups are, the reasons are listed.
`--prune-normalized` removes units in front of a LayerNormalization, too, as
the mean of those that stay; there is no comparison then.
"""

from __future__ import annotations

import argparse
import collections
import gc
import pathlib
import re
import sys
import time

import keras
import numpy as np

import keras_apoptosis as ka
from keras_apoptosis.utils.tables import table

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from tests.architectures import randomize
from tests.masking import masked_outputs, outputs_of

SHARE = 1 / 3
SIZES = {"Inception": 75, "Xception": 71, "NASNet": 32}
HEADER = (
    "model",
    "groups",
    "removable",
    "frozen",
    "parameters",
    "after",
    "analysis s",
    "surgery s",
    "difference",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--prune-normalized", action="store_true")
    arguments = parser.parse_args()
    names = arguments.names or [
        name
        for name in dir(keras.applications)
        if isinstance(getattr(keras.applications, name), type(main))
    ]
    rows, reasons = [], collections.Counter()
    for name in names:
        print(name, file=sys.stderr, flush=True)
        row, found = measure(name, arguments.prune_normalized)
        rows.append(row)
        reasons.update(found)
        gc.collect()
    print(table(HEADER, rows))
    for reason, count in reasons.most_common():
        print(f"{count} groups: {reason}")
    print(f"keras {keras.__version__} on {keras.backend.backend()}")


def measure(name: str, normalized: bool) -> tuple[list, list[str]]:
    size = next((s for key, s in SIZES.items() if name.startswith(key)), 64)
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classifier_activation=None
    )
    randomize(model, seed=0)
    start = time.perf_counter()
    groups = ka.unit_groups(model, prune_normalized=normalized)
    analysis = time.perf_counter() - start
    rng = np.random.default_rng(0)
    removal = ka.Removal(
        {
            group.name: rng.permutation(group.size)[: int(SHARE * group.size)]
            for group in groups
            if group.removable
        }
    )
    frozen = [
        re.sub(r" '[^']*'(, and \d+ more like it,)?", "", group.reason)
        for group in groups
        if not group.removable and group.reason != "the model returns them"
    ]
    before = model.count_params()
    images = rng.normal(size=(2, size, size, 3)).astype("float32")
    expected = () if normalized else masked_outputs(model, removal, images)
    start = time.perf_counter()
    ka.shrink(model, removal, prune_normalized=normalized)
    surgery = time.perf_counter() - start
    difference = max(
        (
            float(np.abs(one - other).max() / np.abs(one).max())
            for one, other in zip(
                expected, outputs_of(model, images), strict=False
            )
        ),
        default=float("nan"),
    )
    row = [
        name,
        len(groups),
        sum(group.removable for group in groups),
        len(frozen),
        before,
        model.count_params(),
        f"{analysis:.3f}",
        f"{surgery:.2f}",
        f"{difference:.1e}",
    ]
    return row, frozen


if __name__ == "__main__":
    main()

"""Removes units from many random models and compares with masking.

A case is one removal from one model; each model loses units three times: they
become zero, then combinations of others, then combinations and constants.

    python -m tests.exactness --cases 10000 --seed 0 --processes 2 \
        --seconds 3600 --log exactness-torch.jsonl

With `--log` a run goes on where the last one stopped. A mismatch is printed
with the seed of its model: `--seed 17 --cases 3` runs it alone.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import gc
import json
import multiprocessing
import os
import time
import traceback
import warnings
from pathlib import Path

TURNS = 3
# By dtype: how far the outputs may be off, of the largest output plus one.
TOLERANCES = {
    "float64": 1e-4,
    "float32": 1e-3,
    "float16": 5e-2,
    "bfloat16": 2e-1,
}


def main() -> int:
    """Runs the cases that the command line asks for."""
    options = _options()
    warnings.simplefilter("ignore")
    log = Path(options.log) if options.log else None
    lines = log.read_text().splitlines() if log and log.exists() else []
    found = [json.loads(line) for line in lines]
    done = {each["seed"] for each in found}
    stop = time.monotonic() + options.seconds
    last = options.seed + -(-options.cases // TURNS)
    seeds = iter(s for s in range(options.seed, last) if s not in done)
    with concurrent.futures.ProcessPoolExecutor(
        options.processes,
        multiprocessing.get_context("spawn"),
        initializer=_begin,
        max_tasks_per_child=100,  # Compiled functions pile up.
    ) as pool:
        waiting: set = set()
        while True:
            while len(waiting) < 2 * options.processes:
                seed = next(seeds, None)
                if seed is None or time.monotonic() > stop:
                    break
                waiting.add(pool.submit(run, seed))
            if not waiting:
                break
            ready, waiting = concurrent.futures.wait(
                waiting, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for each in ready:
                found.append(each.result())
                if log:
                    with log.open("a") as file:
                        file.write(json.dumps(found[-1]) + "\n")
    return _report(found)


def _begin() -> None:
    """Imports, once, what no removal has to look through for holders."""
    import keras_apoptosis  # noqa: F401

    gc.collect()
    gc.freeze()


def run(seed: int) -> dict:
    """Removes units from one random model three times.

    Args:
        seed: The seed of the model and of what is removed.

    Returns:
        The backend, how many cases were equal, how many were right on average
        only and said so, and what went wrong.
    """
    import keras

    from tests.architectures import randomize
    from tests.random_architectures import dtype_of, generate

    warnings.simplefilter("ignore")
    keras.backend.clear_session()
    result = {
        "seed": seed,
        "backend": keras.backend.backend(),
        "dtype": dtype_of(seed),
        "equal": 0,
        "noted": 0,
        "wrong": [],
    }
    for turn in range(TURNS):
        try:
            if turn == 0:
                model = randomize(generate(seed), seed)
            noted = check(model, seed, turn)
        except Exception:
            what = traceback.format_exc(limit=-3)
            result["wrong"].append({"turn": turn, "what": what})
            break
        if noted is not None:
            result["noted" if noted else "equal"] += 1
    return result


def check(model, seed: int, turn: int) -> bool | None:
    """Removes units once and compares with the masked model.

    Args:
        model: The model, which shrinks.
        seed: The seed of the model.
        turn: How often it has lost units before.

    Returns:
        Whether the report says that the result is not exact; `None` if there
        was nothing to remove.

    Raises:
        AssertionError: If the outputs differ and the report says nothing.
    """
    import keras_apoptosis as ka
    from keras_apoptosis.backend import layers_inside
    from tests.masking import masked_outputs, outputs_of
    from tests.random_architectures import dtype_of, inputs_of

    removal = removal_of(model, seed + turn, turn)
    if not len(removal):
        return None
    inputs = inputs_of(model, seed + turn)
    tolerance = TOLERANCES[dtype_of(seed)]
    expected = masked_outputs(model, removal, [inputs])
    small = ka.rebuild(model, removal)
    report = ka.shrink(model, removal)
    if report.notes:
        return True
    compare(outputs_of(model, inputs), expected, tolerance)
    # A new model starts from states of zero.
    for layer in layers_inside(model):
        if getattr(layer, "stateful", False):
            layer.reset_state()
    again = outputs_of(model, inputs)
    compare(outputs_of(small, inputs), again, tolerance)
    return False


def compare(found, expected, tolerance: float) -> None:
    """Raises an `AssertionError` where arrays differ."""
    import numpy as np

    for one, other in zip(found, expected, strict=True):
        one, other = (each.astype("float64") for each in (one, other))
        assert one.shape == other.shape, f"{one.shape} for {other.shape}"
        finite = np.isfinite(other)
        if tolerance == TOLERANCES["float16"]:
            # Whether a small square is zero, by which `UnitNormalization`
            # divides, depends on the order of sums.
            finite &= np.isfinite(one)
        else:
            assert (np.isfinite(one) == finite).all()
        size = 1 + np.abs(other[finite]).max(initial=0)
        off = np.abs(one - other)[finite].max(initial=0) / size
        assert off <= tolerance, f"off by {off:.3g} of the largest output"


def removal_of(model, seed: int, turn: int):
    """Returns random units of every group, with what replaces them."""
    import numpy as np

    import keras_apoptosis as ka
    from keras_apoptosis.graph import analyse
    from keras_apoptosis.surgery.absorption import takes_constants
    from tests.masking import reachable

    rng = np.random.default_rng(seed)
    analysis = analyse(model)
    removed, replacements = {}, {}
    for group in analysis.groups:
        if not group.removable or group.size == 1:
            continue
        count = max(1, int(0.3 * group.size))
        removed[group.name] = rng.choice(group.size, count, replace=False)
        stays = group.size - count
        replacements[group.name] = {
            point.name: ka.Replacement(
                mixing=rng.normal(size=(count, stays)) / stays,
                constant=rng.normal(size=count)
                if turn > 1 and takes_constants(analysis.graph, point)
                else None,
            )
            for point in group.observations
            if turn and reachable(analysis, point)
        }
    return ka.Removal(removed, replacements)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--log")
    return parser.parse_args()


def _report(found: list[dict]) -> int:
    counts: collections.Counter = collections.Counter()
    for each in found:
        for key in ("equal", "noted"):
            counts[each["backend"], key] += each[key]
        counts[each["backend"], "wrong"] += len(each["wrong"])
        for wrong in each["wrong"]:
            where = f"{each['backend']}, {each['dtype']}, turn {wrong['turn']}"
            print(f"seed {each['seed']} ({where}): {wrong['what']}")
    for backend in sorted({backend for backend, _ in counts}):
        equal, noted, wrong = (
            counts[backend, key] for key in ("equal", "noted", "wrong")
        )
        print(
            f"{backend}: {equal + noted + wrong} cases, {equal} equal, "
            f"{noted} inexact and reported so, {wrong} mismatches"
        )
    return int(any(each["wrong"] for each in found))


if __name__ == "__main__":
    raise SystemExit(main())

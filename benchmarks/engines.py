"""A step and a removal on one, two and four processes, by each engine.

    python benchmarks/engines.py [--rounds 3] [--backends torch jax tensorflow]

The batch of all processes together is the same, and each has one thread.
Beside N processes that average gradients run N that do not, each on its part
of the batch: what averaging costs is the difference. It is fitted by

    latency * log2(N) + 2 (N - 1) / N * bytes / bandwidth

and the fit says what to expect of other machines. Horovod is left out where
it is not installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
BATCH, STEPS, EPOCHS, WIDTH = 256, 20, 4, 1024
STARTERS = {
    "tensorflow": ("horovodrun", "--gloo", "-np"),
    "torch": ("torchrun", "--standalone", "--nproc-per-node"),
}
PORT = 23456


def measure(count: int) -> None:
    """In a process of its own: prints seconds, as JSON."""
    import keras
    from _measure import StepTimes, mlp

    import keras_apoptosis as ka

    if "TOGETHER" in os.environ:
        ka.distributed.init()
    keras.utils.set_random_seed(0)
    model = mlp(WIDTH)
    model.compile(
        ka.distributed.DistributedOptimizer(keras.optimizers.Adam()),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    rng = np.random.default_rng(0)
    rows = BATCH * STEPS // count
    x = rng.normal(size=(rows, 784)).astype("float32")
    y = rng.integers(0, 10, rows)

    def step() -> float:
        times = StepTimes()
        model.fit(
            x,
            y,
            batch_size=BATCH // count,
            epochs=EPOCHS,
            shuffle=False,
            verbose=0,
            callbacks=[ka.distributed.BroadcastInitialState(), times],
        )
        return float(np.median(times.seconds[1:]))

    found = {"full": step(), "full bytes": 4 * model.count_params()}
    start = time.perf_counter()
    half = list(range(WIDTH // 2))
    ka.shrink(model, ka.Removal({"one": half, "two": half}))
    found["removal"] = time.perf_counter() - start
    found |= {"small": step(), "small bytes": 4 * model.count_params()}
    if ka.distributed.is_primary():
        print(json.dumps(found), flush=True)


def start(backend: str, count: int, together: bool) -> dict[str, float]:
    """Runs so many processes; returns what the first of them prints."""
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_NUM_INTRAOP_THREADS": "1",
        "TF_NUM_INTEROP_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
        "PYTHONPATH": str(ROOT),
    }
    command = [__file__, "--measure", str(count)]
    environments = [environment] * count
    before: list[str] = [sys.executable]
    if together and count > 1:
        environment["TOGETHER"] = "1"
        if backend == "jax":
            environments = [
                {
                    **environment,
                    "KERAS_DISTRIBUTION_JOB_ADDRESSES": f"localhost:{PORT}",
                    "KERAS_DISTRIBUTION_NUM_PROCESSES": str(count),
                    "KERAS_DISTRIBUTION_PROCESS_ID": str(number),
                }
                for number in range(count)
            ]
        else:
            starter, *rest = STARTERS[backend]
            before = [str(Path(sys.executable).parent / starter), *rest]
            before += [str(count)]
            before += [sys.executable] if backend == "tensorflow" else []
            environments = [environment]
    started = [
        subprocess.Popen(
            [*before, *command],
            env=each,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for each in environments
    ]
    said = [each.communicate(timeout=600)[0] for each in started]
    for line in "\n".join(said).splitlines():
        if '{"full"' in line:
            return json.loads(line[line.index("{") :])
    raise RuntimeError(f"{backend} gave no result:\n{said[0][-3000:]}")


def fitted(costs: list[tuple[int, float, float]]) -> tuple[float, float]:
    """Fits latency and bandwidth to what averaging cost.

    Args:
        costs: Numbers of processes, bytes, and seconds.

    Returns:
        Seconds, and bytes in a second; neither below zero.
    """
    terms = [(np.log2(n), 2 * (n - 1) / n * sent) for n, sent, _ in costs]
    # Relative errors count alike, whatever the engine and the size.
    rows = np.array(
        [np.array(t) / s for t, (*_, s) in zip(terms, costs, strict=True)]
    )
    latency, inverse = np.linalg.lstsq(rows, np.ones(len(rows)), rcond=None)[0]
    return float(latency), float(1 / inverse)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", type=int)
    parser.add_argument(
        "--backends", nargs="*", default=["tensorflow", "torch", "jax"]
    )
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure)
        return
    from _measure import machine, medians

    from keras_apoptosis.utils.tables import table

    if importlib.util.find_spec("horovod") is None:
        print("Without Horovod, which is not installed: `make horovod`.")
        arguments.backends = [
            each for each in arguments.backends if each != "tensorflow"
        ]
    rows = []
    for backend in arguments.backends:
        ways = [(1, False)] + [(n, t) for n in (2, 4) for t in (False, True)]
        found: dict[tuple[int, bool], list[dict[str, float]]] = {}
        for _ in range(arguments.rounds):
            for way in ways:
                found.setdefault(way, []).append(start(backend, *way))
        result = {way: medians(each) for way, each in found.items()}
        costs = []
        for size in ("full", "small"):
            for count in (2, 4):
                apart, joint = result[count, False], result[count, True]
                sent = joint[f"{size} bytes"]
                cost = max(joint[size] - apart[size], 1e-5)
                costs.append((count, sent, cost))
                rows.append(
                    (
                        backend,
                        {"full": "2x1024", "small": "2x512"}[size],
                        count,
                        f"{1e3 * result[1, False][size]:.1f}",
                        f"{1e3 * apart[size]:.1f}",
                        f"{1e3 * joint[size]:.1f}",
                        f"{int(sent):,}",
                        f"{1e3 * joint['removal']:.0f}",
                    )
                )
        latency, bandwidth = fitted(costs)
        print(
            f"{backend}: {1e3 * latency:.2f} ms and {bandwidth / 1e6:.0f} MB/s"
        )
    names = ("backend", "MLP", "processes", "one, ms", "apart, ms")
    names += ("together, ms", "bytes", "removal, ms")
    print(table(names, rows))
    print(machine(), flush=True)


if __name__ == "__main__":
    main()

"""Two Horovod ranks beside one process and TensorFlow's own strategy.

All with the same batch in all; a rank has one thread, the one process two.
Needs Horovod: `make horovod`. Each round starts every kind once.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROUNDS = 3
BATCH, STEPS, EPOCHS, WIDTH = 256, 30, 4, 1024
KINDS = ("one", "two", "unreduced", "strategy")


def measure(kind: str) -> None:
    """In a process of its own: prints seconds for a step, and bytes."""
    if kind == "strategy":
        import tensorflow as tf

        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    import keras
    from _measure import StepTimes, mlp

    import keras_apoptosis as ka
    from keras_apoptosis.distributed.optimizer import AllReduce, all_reduce_of

    ka.distributed.init()
    if kind == "unreduced":  # The same, without the exchange itself.
        AllReduce._reduced = lambda self, gradients: gradients

    def build() -> keras.Model:
        model = mlp(WIDTH)
        model.compile(
            ka.distributed.DistributedOptimizer(keras.optimizers.Adam()),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=False,
        )
        return model

    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH * STEPS, 784)).astype("float32")
    y = rng.integers(0, 10, len(x))
    if kind == "strategy":
        with strategy.scope():
            model = build()
        seconds = loop_of_its_own(strategy, model, x, y)
        print(json.dumps({"full": seconds}), flush=True)
        return
    model = build()
    x, y = ka.distributed.shard((x, y))

    def fit() -> tuple[float, int]:
        times = StepTimes()
        callbacks: list[keras.callbacks.Callback] = [times]
        if kind == "two" or kind == "one":
            callbacks.insert(0, ka.distributed.BroadcastInitialState())
        elif (hook := all_reduce_of(model.optimizer)) is not None:
            hook.state = []
        model.fit(
            x,
            y,
            batch_size=BATCH // ka.distributed.size(),
            epochs=EPOCHS,
            shuffle=False,
            verbose=0,
            callbacks=callbacks,
        )
        hook = all_reduce_of(model.optimizer)
        return float(np.median(times.seconds[1:])), (
            hook.bytes or 0
        ) if hook else 0

    full, full_bytes = fit()
    half = list(range(WIDTH // 2))
    ka.shrink(model, ka.Removal({"one": half, "two": half}))
    small, small_bytes = fit()
    if ka.distributed.is_primary():
        found = {"full": full, "small": small}
        found |= {"full_bytes": full_bytes, "small_bytes": small_bytes}
        print(json.dumps(found), flush=True)


def loop_of_its_own(strategy, model, x, y) -> float:
    """Seconds for a step: Keras 3.15's `fit` fails under this strategy."""
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH).repeat()
    batches = iter(strategy.experimental_distribute_dataset(data))
    with strategy.scope():
        model.optimizer.build(model.trainable_variables)

    def train(x, y):
        with tf.GradientTape() as tape:
            loss = model.loss(y, model(x, training=True)) / 2
        weights = [each.value for each in model.trainable_variables]
        gradients = tape.gradient(loss, weights)
        model.optimizer.apply(gradients, model.trainable_variables)

    @tf.function
    def step(batches):
        strategy.run(train, args=next(batches))

    times = []
    for _ in range(EPOCHS):
        start = time.perf_counter()
        for _ in range(STEPS):
            step(batches)
        times.append((time.perf_counter() - start) / STEPS)
    return float(np.median(times[1:]))


def start(kind: str) -> dict[str, float]:
    """Runs one kind in processes of its own; what it prints."""
    threads = "2" if kind == "one" else "1"
    environment = {
        **os.environ,
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_NUM_INTRAOP_THREADS": threads,
        "TF_NUM_INTEROP_THREADS": threads,
        "OMP_NUM_THREADS": threads,
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    command = [sys.executable, __file__, kind]
    if kind in ("two", "unreduced"):
        horovodrun = str(Path(sys.executable).parent / "horovodrun")
        command = [horovodrun, "--gloo", "-np", "2", *command]
    environments = [environment]
    if kind == "strategy":
        addresses = [f"localhost:{port}" for port in free_ports(2)]
        environments = [
            {
                **environment,
                "TF_CONFIG": json.dumps(
                    {
                        "cluster": {"worker": addresses},
                        "task": {"type": "worker", "index": index},
                    }
                ),
            }
            for index in range(2)
        ]
    started = [
        subprocess.Popen(
            command,
            env=each,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for each in environments
    ]
    said = [each.communicate(timeout=300)[0] for each in started]
    for line in said[0].splitlines():
        if '{"full"' in line:
            return json.loads(line[line.index("{") :])
    raise RuntimeError(f"{kind} gave no result:\n{said[0][-3000:]}")


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("localhost", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def main() -> None:
    if importlib.util.find_spec("horovod") is None:
        print("Left out: Horovod is not installed; `make horovod` builds it")
        return
    from _measure import machine

    from keras_apoptosis.utils.tables import table

    found: dict[str, list[dict]] = {kind: [] for kind in KINDS}
    for _ in range(ROUNDS):
        for kind in KINDS:
            found[kind].append(start(kind))

    def median(kind: str, what: str) -> float:
        return float(np.median([each[what] for each in found[kind]]))

    rows = []
    for what in ("full", "small"):
        one, two = median("one", what), median("two", what)
        bare = median("unreduced", what)
        sent = found["two"][0][f"{what}_bytes"]
        rows.append(
            (
                "2x1024" if what == "full" else "2x512, half of it removed",
                f"{one * 1e3:.1f}",
                f"{two * 1e3:.1f}",
                f"{two / one:.2f}",
                f"{1 - bare / two:.0%}",
                f"{sent:,}",
            )
        )
    names = ("MLP", "one, ms", "two, ms", "two / one", "all-reduce", "bytes")
    print(f"\nA training step, batch {BATCH} in all: two ranks and one process")
    print(table(names, rows))
    strategy = median("strategy", "full")
    print(
        "tf.distribute.MultiWorkerMirroredStrategy with two workers, 2x1024: "
        f"{strategy * 1e3:.1f} ms; Horovod takes "
        f"{median('two', 'full') / strategy:.2f} of it"
    )
    print(machine(), flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(sys.argv[1])
    else:
        main()

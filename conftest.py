"""What all tests share, those in docstrings included."""

import gc
import os
from importlib import metadata
from pathlib import Path

# Tests compile much and run little. What JAX is told is read once, when it is
# imported.
BACKEND = os.environ.get("KERAS_BACKEND")
QUICKER = "--xla_cpu_use_fusion_emitters=false"
if BACKEND == "jax":
    for name, value in {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_TRACEBACK_IN_LOCATIONS_LIMIT": "0",
        # What was compiled once is there for each worker, and the next run.
        "JAX_COMPILATION_CACHE_DIR": str(
            Path(__file__).parent / ".pytest_cache" / "jax"
        ),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }.items():
        os.environ.setdefault(name, value)
    # It halves the time. A flag that another version does not know ends it.
    flags = os.environ.get("XLA_FLAGS", "")
    if metadata.version("jaxlib").startswith("0.10.") and QUICKER not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {QUICKER}"

import keras
import numpy as np
import pytest

import keras_apoptosis

# For processes of their own, see `tests/processes.py`; not to be imported.
collect_ignore = ["tests/without_tensorflow"]

# What TensorFlow keeps for good of each training, its whole graph with it.
registry: dict = {}
if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    from tensorflow.python.framework.ops import gradient_registry

    registry = getattr(gradient_registry, "_registry", registry)
    # Optimizing a graph takes longer than running it for a few steps.
    tf.config.optimizer.set_experimental_options(
        {"disable_meta_optimizer": True}
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest first: no worker is left with them in the end."""
    items.sort(key=lambda item: "distributed" not in item.path.parts)


def pytest_collection_finish() -> None:
    _hide_what_is_alive()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    for name in [each for each in registry if each.startswith("CustomGrad")]:
        del registry[name]
    _hide_what_is_alive()


def _hide_what_is_alive() -> None:
    """Leaves to the garbage collector only what the next test makes.

    Each removal looks through all of its objects for holders of weights. Those
    of imported modules, and what the backend keeps of earlier tests, hold
    none; they are more than ten times as many as a test makes.
    """
    gc.collect()
    gc.freeze()


def pytest_report_header() -> str:
    return f"keras {keras.__version__} on {keras.backend.backend()}"


@pytest.fixture(autouse=True)
def _same_start() -> None:
    """Each test has fresh layer names and the same random numbers."""
    # The memory was freed when the last test ended.
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def _names_in_docstrings(doctest_namespace: dict) -> None:
    doctest_namespace.update(keras=keras, ka=keras_apoptosis, np=np)


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Real data for quick tests: 1797 rows of 64 features, and labels."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return (x / 16).astype("float32"), y.astype("int32")

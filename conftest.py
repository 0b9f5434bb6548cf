"""What all tests share, those in docstrings included."""

import gc
import os

# Tests compile much and run little; it must be set before JAX is imported.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import keras
import numpy as np
import pytest

import keras_apoptosis


def pytest_collection_finish() -> None:
    # Each removal looks through all objects for holders of weights; those of
    # imported modules, some hundred thousand, hold none.
    gc.collect()
    gc.freeze()


def pytest_report_header() -> str:
    return f"keras {keras.__version__} on {keras.backend.backend()}"


@pytest.fixture(autouse=True)
def _same_start() -> None:
    """Each test has fresh layer names and the same random numbers."""
    # Not the memory: collecting garbage takes longer than most tests.
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

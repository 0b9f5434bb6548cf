"""Promise 1 as a property: random models, random removals.

`RANDOM_ARCHITECTURES=1000` runs as many models instead of a few; each of them
loses units three times, which makes as many cases.
"""

import os

import keras
import pytest

import keras_apoptosis as ka
from tests.architectures import randomize
from tests.random_architectures import generate
from tests.surgery.test_shrink import check_equal_to_masking, removal_of

FEW = 8 if keras.backend.backend() == "jax" else 24  # It compiles for long.
COUNT = int(os.environ.get("RANDOM_ARCHITECTURES", FEW))


@pytest.mark.parametrize("seed", range(COUNT))
def test_equals_masking_three_times(seed):
    keras.backend.clear_session()
    model = randomize(generate(seed), seed)
    assert any(group.removable for group in ka.unit_groups(model))
    for turn in range(3):
        replace = ("nothing", "mixing", "nothing")[turn]
        removal = removal_of(model, seed + turn, share=0.3, replace=replace)
        if not len(removal):
            break
        check_equal_to_masking(model, removal, seed, tolerance=1e-3)

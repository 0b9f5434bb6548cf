"""Promise 1 on models that people use; the others are in docs/."""

import keras
import pytest

import keras_apoptosis as ka
from tests.architectures import randomize
from tests.cases import part
from tests.surgery.test_shrink import check_equal_to_masking, removal_of

LAYER_NORM = "normalizes over the units"
CASES = [
    ("ConvNeXtTiny", 23, 4),
    ("MobileNetV3Small", 28, 0),
    ("ResNet50", 38, 0),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "groups", "frozen"), part(CASES))
def test_equals_masking(name, groups, frozen):
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(32, 32, 3), classifier_activation=None
    )
    randomize(model, seed=0)
    found = ka.unit_groups(model)
    held = [group for group in found if LAYER_NORM in group.reason]
    assert (len(found), len(held)) == (groups, frozen)
    assert sum(group.removable for group in found) == groups - frozen - 1
    removal = removal_of(model, seed=0, replace="nothing")
    check_equal_to_masking(model, removal, tolerance=1e-3)

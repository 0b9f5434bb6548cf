"""Promise 1 for every rule."""

import pytest

import keras_apoptosis as ka
from tests.architectures import randomize
from tests.every_layer import EVERY_LAYER, HELD_BACK
from tests.surgery.test_shrink import check_equal_to_masking, removal_of


@pytest.mark.parametrize("name", EVERY_LAYER)
@pytest.mark.parametrize("replace", ["nothing", "mixing"])
def test_equals_masking(name, replace):
    model = randomize(EVERY_LAYER[name](), seed=1)
    frozen = {
        group.reason
        for group in ka.unit_groups(model)
        if group.size > 1
        and not group.removable
        and group.name not in HELD_BACK.get(name, ())
    }
    assert frozen <= {"the model returns them"}
    removal = removal_of(model, seed=2, replace=replace)
    tolerance = 3e-2 if name == "mixed_precision" else 2e-4
    report, _ = check_equal_to_masking(model, removal, tolerance=tolerance)
    assert report.notes == ()

"""Promise 1 for every rule."""

import keras
import numpy as np
import pytest

import keras_apoptosis as ka
from tests.architectures import randomize, sample
from tests.cases import combinations
from tests.every_layer import EVERY_LAYER, HELD_BACK
from tests.masking import outputs_of
from tests.surgery.test_shrink import check_equal_to_masking, removal_of


@pytest.mark.parametrize(
    ("name", "replace"), combinations(EVERY_LAYER, ["nothing", "mixing"])
)
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


@pytest.mark.parametrize(
    "name",
    [
        "dense_on_any_rank",
        "grouped_convolution",
        "convolution_of_each_channel",
        "squeeze_and_excite",
    ],
)
def test_prunable_layers_shrink_alike(name):
    """Masks and statistics are cut along with the weights."""
    model = ka.make_prunable(EVERY_LAYER[name](), track_statistics=True)
    randomize(model, seed=1)
    for layer in model.layers:
        if hasattr(layer, "set_mask"):
            rng = np.random.default_rng(0)
            layer.set_mask(rng.random(layer.kernel.shape) < 0.7)
    removal = removal_of(model, seed=2, replace="nothing")
    check_equal_to_masking(model, removal)


@pytest.mark.parametrize("name", ["conv_lstm_channels_first", "fixed_places"])
def test_saved_and_loaded(name, tmp_path):
    model = randomize(EVERY_LAYER[name](), seed=1)
    ka.shrink(model, removal_of(model, seed=2, replace="nothing"))
    model.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    data = sample(model)
    np.testing.assert_allclose(
        outputs_of(loaded, data)[0], outputs_of(model, data)[0], rtol=1e-5
    )

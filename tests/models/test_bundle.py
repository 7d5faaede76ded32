"""The bundle file: same content same bytes, nothing lost, nothing unsound loaded."""

import hashlib
import json

import numpy as np
import pytest
from safetensors.numpy import save

from aqdask.errors import ModelError
from aqdask.kernels.calibration import ScoreTable
from aqdask.models.bundle import Bundle, calibration_key
from aqdask.models.container import pack, unpack
from aqdask.models.scorer import load_scorer


def make(**changes):
    settings = {
        "name": "wide-field",
        "method": "paper",
        "patch": 64,
        "normalisation": "minmax",
        "architecture": {"widths": [16, 32]},
        "weights": {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.ones(2, np.float32)},
        "calibrations": {
            "": ScoreTable.from_scores(np.arange(9.0)),
            calibration_key("cam/1", "L|R"): ScoreTable.from_scores(np.arange(3.0)),
        },
        "provenance": {"frames": {"train": ["été.fits"]}, "loss_curve": {"train": [0.1]}},
        "notes": ("Mind the gap.",),
    }
    return Bundle(**(settings | changes))


def test_a_bundle_comes_back_whole(tmp_path):
    path = tmp_path / "deep" / "model.safetensors"
    made = make()
    made.save(path)
    loaded = Bundle.load(path)
    assert loaded.digest == made.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.contents == path.read_bytes()
    assert loaded.info() == made.info()
    np.testing.assert_array_equal(loaded.weights["b"], made.weights["b"])
    for key, table in made.calibrations.items():
        np.testing.assert_array_equal(loaded.calibrations[key].values, table.values)
        np.testing.assert_array_equal(loaded.calibrations[key].above, table.above)
    assert [entry.name for entry in path.parent.iterdir()] == ["model.safetensors"]  # no partial file


def test_equal_content_gives_equal_bytes_in_any_order():
    reordered = make(weights=dict(reversed(make().weights.items())))
    assert reordered.contents == make().contents
    assert make(notes=()).digest != make().digest


def test_calibration_falls_back_to_the_pooled_one():
    bundle = make()
    assert bundle.calibration("cam/1", "L|R").total == 3
    assert bundle.calibration("cam/1", "B").total == 9
    assert bundle.calibration().total == 9


def test_info_is_plain_json():
    info = json.loads(json.dumps(make().info()))
    assert info["parameters"] == 8
    assert info["calibrations"][""] == {"patches": 9, "smallest_pvalue": 0.1}


def document(**changes):
    return {"format": "aqdask-bundle", "bundle_version": 1} | changes


FOUR = r".*Expected: .*\. What to do: "


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cannot be read as safetensors"),
        (b"SIMPLE  =                    T", "cannot be read as safetensors"),
        (make().contents[:-10], "cannot be read as safetensors"),  # a copy that was cut short
        (make().contents[:-1] + b"\x01", "checksum of the file's content differs"),  # a flipped bit
        (save({"x": np.zeros(1)}), "a safetensors file with no aqdask metadata"),
        (pack({}, document(format="aqdask-checkpoint")), "a safetensors file with aqdask-checkpoint"),
        (pack({}, document(bundle_version=2)), "version 2"),
        (pack({}, document()), "a bundle without 'name'"),
    ],
)
def test_unsound_files_are_refused_with_a_remedy(data, message, tmp_path):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=message + FOUR):
        Bundle.from_bytes(data)
    with pytest.raises(ModelError, match=r"bad\.safetensors: .*" + message + FOUR):
        Bundle.load(path)


def test_a_changed_word_in_the_metadata_is_noticed():
    with pytest.raises(ModelError, match="checksum" + FOUR):
        Bundle.from_bytes(make().contents.replace(b"Mind the gap", b"Mind the hat"))


def test_a_missing_file_is_a_model_error(tmp_path):
    with pytest.raises(ModelError, match="none.safetensors cannot be read" + FOUR):
        Bundle.load(tmp_path / "none.safetensors")


def test_a_bundle_without_the_pooled_calibration_is_refused():
    with pytest.raises(ModelError, match="a bundle without ''" + FOUR):
        Bundle.from_bytes(make(calibrations={}).contents)


def test_weights_that_do_not_fit_are_refused():
    with pytest.raises(ModelError, match="do not fit its architecture" + FOUR):
        load_scorer(make())


def test_an_unknown_method_is_refused():
    with pytest.raises(ModelError, match="'oracle'" + FOUR):
        load_scorer(make(method="oracle"))


def test_packing_is_undone():
    tensors, read = unpack(pack({"x": np.array(3.0)}, document(more=[1])), "aqdask-bundle", 1)
    assert tensors["x"] == 3
    assert read["more"] == [1]

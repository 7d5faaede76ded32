"""The bundle file: same content same bytes, nothing lost, nothing unsound loaded."""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from aqdask.errors import ModelError, UsageError
from aqdask.methods.bundle import VERSION, Bundle, Calibration, calibration_key
from aqdask.methods.container import pack, unpack
from aqdask.methods.dispatch import load_scorer
from aqdask.methods.paper.scorer import calibration_of
from aqdask.methods.training.settings import TrainSpec
from aqdask.stats.conformal import ScoreTable


def make(**changes):
    settings = {
        "name": "wide-field",
        "method": "paper",
        "patch": 64,
        "normalisation": "minmax",
        "architecture": {"widths": [16, 32]},
        "weights": {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.ones(2, np.float32)},
        "calibrations": {
            "": calibration_of(np.arange(9.0)),
            calibration_key("cam/1", "L|R"): calibration_of(np.arange(3.0)),
        },
        "provenance": {"frames": {"train": ["été.fits"]}, "loss_curve": {"train": [0.1]}},
        "notes": ("Mind the gap.",),
    }
    return Bundle(**(settings | changes))


def same_calibrations(left, right):
    """Same keys, facts, and arrays with the same names, types, shapes and values."""
    assert left.calibrations.keys() == right.calibrations.keys()
    for key, calibration in left.calibrations.items():
        other = right.calibrations[key]
        assert calibration.facts == other.facts
        assert calibration.arrays.keys() == other.arrays.keys()
        for name, array in calibration.arrays.items():
            assert (array.dtype, array.shape) == (other.arrays[name].dtype, other.arrays[name].shape)
            np.testing.assert_array_equal(array, other.arrays[name])
    return True


def test_a_bundle_comes_back_whole(tmp_path):
    path = tmp_path / "deep" / "model.safetensors"
    made = make()
    made.save(path)
    loaded = Bundle.load(path)
    assert loaded.digest == made.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.contents == path.read_bytes()
    assert loaded.info() == made.info()
    np.testing.assert_array_equal(loaded.weights["b"], made.weights["b"])
    assert same_calibrations(loaded, made)
    assert [entry.name for entry in path.parent.iterdir()] == ["model.safetensors"]  # no partial file


def test_equal_content_gives_equal_bytes_in_any_order():
    reordered = make(weights=dict(reversed(make().weights.items())))
    assert reordered.contents == make().contents
    assert make(notes=()).digest != make().digest


def test_calibration_falls_back_to_the_pooled_one():
    bundle = make()
    assert bundle.calibration("cam/1", "L|R").facts["patches"] == 3
    assert bundle.calibration("cam/1", "B").facts["patches"] == 9
    assert bundle.calibration().facts["patches"] == 9
    assert bundle.calibrated_for("cam/1", "L|R")
    assert not bundle.calibrated_for("cam/1", "B")
    assert not bundle.calibrated_for("", "")  # unknown is not pooled: that needs a calibration of its own
    assert make(calibrations={"": None, "|": None}).calibrated_for("", "")


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(
    ["/", "%2F", "a/b|", ""]
)


@given(
    st.dictionaries(
        TEXT,
        st.dictionaries(TEXT, st.lists(st.integers(0, 9), max_size=3).map(lambda x: np.array(x, np.int64))),
        max_size=4,
    )
)
def test_any_key_and_any_array_name_come_back(arrays):
    made = make(
        calibrations={key: Calibration(found, {"n": [len(found), None]}) for key, found in arrays.items()}
        | {"": Calibration({}, {})}
    )
    assert same_calibrations(Bundle.from_bytes(made.contents), made)


def test_tables_of_several_prefixes_lie_in_one_calibration():
    tables = {
        name: ScoreTable.from_scores(np.arange(n)) for n, name in ((3, ""), (4, "score"), (5, "tail/psf"))
    }
    arrays = {name: array for prefix, table in tables.items() for name, array in table.arrays(prefix).items()}
    assert arrays["tail/psf/total"].shape == ()
    loaded = Bundle.from_bytes(make(calibrations={"": Calibration(arrays, {})}).contents).calibration()
    for prefix, table in tables.items():
        found = ScoreTable.of(loaded.arrays, prefix)
        assert (found.total, type(found.total)) == (table.total, int)
        np.testing.assert_array_equal(found.values, table.values)
        np.testing.assert_array_equal(found.above, table.above)
    with pytest.raises(KeyError, match="absent/values"):
        ScoreTable.of(arrays, "absent")


def test_calibrations_are_added_to_a_copy():
    before = make()
    other = calibration_of(np.arange(20.0))
    after = before.with_calibrations({calibration_key("new", "L"): other}, name="wider", notes=())
    assert (after.name, after.notes, before.name) == ("wider", (), "wide-field")
    assert set(after.calibrations) == {*before.calibrations, "new|L"}
    assert after.calibration("new", "L") is other
    assert not before.calibrated_for("new", "L")
    assert Bundle.from_bytes(after.contents).digest == after.digest != before.digest
    assert before.with_calibrations({"": other}).calibration("?", "?") is other


def test_info_is_plain_json():
    info = json.loads(json.dumps(make().info()))
    assert info["parameters"] == 8
    assert info["calibrations"][""] == {"patches": 9, "smallest_pvalue": 0.1}


def document(**changes):
    return {"format": "aqdask-bundle", "bundle_version": VERSION} | changes


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
        (pack({}, document(bundle_version=1)), "version 1"),
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


UNSOUND = {
    "name": ["", "a/b", "..", "a..b", "../x", "a\x1b[31m", "a\n", "x" * 101, " a", "-a", 3, None, ["a"]],
    "method": ["", None, 1, ["paper"], {}],
    "patch": ["64", True, 7, 4097, 0, -64, 64.0, None, 10**30],
    "normalisation": [1, None],
    "architecture": [[], "x", None],
    "provenance": [[], "x"],
    "notes": ["abc", [1], [["a"]], {"a": 1}, None, [None]],
}


@pytest.mark.parametrize(("field", "value"), [(name, v) for name, values in UNSOUND.items() for v in values])
def test_fields_that_no_model_has_are_refused(field, value):
    tensors, read = unpack(make().contents, "aqdask-bundle", (VERSION,))
    with pytest.raises(ModelError, match=f"a bundle with the {field} " + FOUR) as error:
        Bundle.from_bytes(pack(tensors, read | {field: value}))
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    "facts",
    [[], "", None, 3, {"": []}, {"": "ab"}, {"": None}, {"": {"patches": "9"}}, {"": {"patches": True}},
     {"": {"smallest_pvalue": "x"}}, {"": {"about": []}}, {"": {"noise": 3}}, {"": {"brighter": "x"}}],
)  # fmt: skip
def test_facts_of_another_kind_are_refused(facts):
    tensors, read = unpack(make().contents, "aqdask-bundle", (VERSION,))
    with pytest.raises(ModelError, match="a bundle with the calibrations"):
        Bundle.from_bytes(pack(tensors, read | {"calibrations": facts}))


def test_the_longest_name_and_the_bounds_of_patches_are_taken():
    for name, patch in (("x" * 100, 8), ("a.b_c-D", 4096)):
        loaded = Bundle.from_bytes(make(name=name, patch=patch).contents)
        assert (loaded.name, loaded.patch) == (name, patch)


@pytest.mark.parametrize("name", ["x" * 101, "a/b", "..", "a..b", "", "a\x1b"])
def test_training_refuses_such_a_name_too(name):
    with pytest.raises(UsageError, match=r"the training setting name is .*at most 100 letters"):
        TrainSpec(name=name)


def test_metadata_nested_without_end_is_no_traceback():
    deep = "[" * 200_000 + "]" * 200_000
    with pytest.raises(ModelError, match="no aqdask metadata"):
        Bundle.from_bytes(save({"x": np.zeros(1)}, metadata={"aqdask": deep}))


def test_a_changed_word_in_the_metadata_is_noticed():
    with pytest.raises(ModelError, match="checksum" + FOUR):
        Bundle.from_bytes(make().contents.replace(b"Mind the gap", b"Mind the hat"))


def test_a_missing_file_is_a_model_error(tmp_path):
    with pytest.raises(ModelError, match="none.safetensors cannot be read" + FOUR):
        Bundle.load(tmp_path / "none.safetensors")


def test_a_bundle_without_the_pooled_calibration_is_refused():
    with pytest.raises(ModelError, match="a bundle without ''" + FOUR):
        Bundle.from_bytes(make(calibrations={}).contents)


def test_an_array_of_no_calibration_is_refused():
    tensors, read = unpack(make().contents, "aqdask-bundle", (VERSION,))
    stray = tensors | {"calibration/stray/values": np.zeros(1)}
    with pytest.raises(ModelError, match="a bundle without 'stray'" + FOUR):
        Bundle.from_bytes(pack(stray, read))


def test_a_calibration_without_scores_is_refused():
    with pytest.raises(ModelError, match="a calibration of the model wide-field without 'values'" + FOUR):
        load_scorer(make(calibrations={"": Calibration({}, {})}))


def test_weights_that_do_not_fit_are_refused():
    with pytest.raises(ModelError, match="do not fit its architecture" + FOUR):
        load_scorer(make())


def test_an_unknown_method_is_refused():
    with pytest.raises(ModelError, match="'oracle'" + FOUR):
        load_scorer(make(method="oracle"))


def test_packing_is_undone():
    tensors, read = unpack(pack({"x": np.array(3.0)}, document(more=[1])), "aqdask-bundle", (VERSION,))
    assert tensors["x"] == 3
    assert read["more"] == [1]


def test_an_array_in_any_memory_order_comes_back_as_it_was():
    turned = np.arange(12, dtype=np.int32).reshape(3, 4).T
    assert not turned.flags["C_CONTIGUOUS"]
    data = pack({"turned": turned}, {"format": "kind", "bundle_version": 1})
    tensors, _ = unpack(data, "kind", (1,))
    np.testing.assert_array_equal(tensors["turned"], turned)

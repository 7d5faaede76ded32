"""What is measured in a patch: against slow re-implementations in float64, and on planted stars and lines."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aqdask.methods.noise_aware.patch_statistics import (
    SCALES,
    SHAPE_NAMES,
    STAR_SIGMA,
    WINSOR,
    View,
    line_sums,
    line_weights,
    pack,
    table,
)

SIDE, LATENT = 64, 3
Y, X = np.mgrid[:SIDE, :SIDE]


def view_of(u, residual=None):
    """A view of patches with a random latent and shape, all of it fixed by the patches' number."""
    rng = np.random.default_rng(len(u))
    latent, shape = rng.normal(size=(len(u), LATENT, 8, 8)), rng.random((len(u), 6))
    arrays = (u, u if residual is None else residual, latent, shape)
    return View(*(torch.tensor(np.asarray(a), dtype=torch.float32) for a in arrays))


def measured(u, residual=None):
    """Every column of the table by name, float64."""
    view = view_of(u, residual)
    found = {}
    for row in table(LATENT):
        values = row.function(view).double().numpy()
        assert values.shape == (len(u), len(row.names))
        found |= {name: values[:, k] for k, name in enumerate(row.names)}
    return found


def unit(seed, count=1):
    return np.random.default_rng(seed).standard_normal((count, SIDE, SIDE))


def busy(seed, count=5):
    """Noise, gradients, bright pixels, stars: no two patches alike."""
    rng = np.random.default_rng(seed)
    patches = unit(seed, count) * rng.uniform(0.5, 2, (count, 1, 1)) + rng.normal(0, 0.5, (count, 1, 1))
    for patch in patches:
        patch += rng.normal() * X / 30
        patch[rng.integers(0, SIDE, 4), rng.integers(0, SIDE, 4)] += rng.uniform(5, 60, 4)
        for cy, cx in rng.uniform(5, 59, (3, 2)):
            patch += star(rng.uniform(5, 200), cy, cx)
    return patches


def star(peak, cy, cx, sigma=1.2):
    return peak * np.exp(-((Y - cy) ** 2 + (X - cx) ** 2) / (2 * sigma**2))


def block_sums(patch, scale):
    """Sums over squares, in units in which white noise keeps its variance."""
    return patch.reshape(SIDE // scale, scale, SIDE // scale, scale).sum(axis=(1, 3)) / scale


# --- one slow definition a column ----------------------------------------------------------------------


def slow_stars(patch):
    pairs = (patch[:-1:2] + patch[1::2])[:, :-1:2] + (patch[:-1:2] + patch[1::2])[:, 1::2]
    pooled, count = pairs / 2, 0
    for y in range(1, len(pooled) - 1):
        for x in range(1, len(pooled) - 1):
            square = pooled[y - 1 : y + 2, x - 1 : x + 2]
            count += pooled[y, x] > STAR_SIGMA and pooled[y, x] == square.max()
    return count


def slow(u, residual):
    """Columns of one patch by name."""
    spikes = [
        (
            residual[y, x]
            - (residual[y, x + 1] + residual[y, x - 1] + residual[y + 1, x] + residual[y - 1, x]) / 4
        )
        for y in range(1, SIDE - 1)
        for x in range(1, SIDE - 1)
    ]
    slope = math.erf(WINSOR / math.sqrt(2))
    cells = np.clip(u, -WINSOR, WINSOR).reshape(4, 16, 4, 16).mean(axis=(1, 3)) / slope
    found = {
        "mae": np.abs(residual).mean(),
        "spike": np.log(max(spikes) / math.sqrt(1.25)),
        "peak_1": np.log(np.abs(residual).max()),
        "stars": slow_stars(u),
    }
    found |= {f"cell_{n}": value for n, value in enumerate(cells.ravel())}
    for scale in SCALES:
        pooled = block_sums(residual, scale)
        found |= {
            f"square_{scale}": np.log((pooled**2).mean()),
            f"peak_{scale}": np.log(np.abs(pooled).max()),
        }
    return found


def test_every_column_is_its_slow_definition():
    u, residual = busy(1), busy(2)
    found = measured(u, residual)
    compared = set()
    for k in range(len(u)):
        for name, value in slow(u[k], residual[k]).items():
            if name in found:
                assert found[name][k] == pytest.approx(value, rel=2e-4, abs=2e-5), name
                compared.add(name)
    assert len(compared) > 20
    # What adds up lines is tried on lines below: its cuts and folds are a matter of tuning.


def test_latent_and_shape_columns_are_plain_moments():
    view, found = view_of(unit(3, 4)), measured(unit(3, 4))
    latent = view.latent.double().numpy()
    for channel in range(LATENT):
        moments = latent[:, channel].mean(axis=(1, 2)), latent[:, channel].std(axis=(1, 2))
        np.testing.assert_allclose(found[f"latent_mean_{channel}"], moments[0], atol=1e-6)
        np.testing.assert_allclose(found[f"latent_std_{channel}"], moments[1], rtol=1e-5)
    for k, name in enumerate(SHAPE_NAMES):
        np.testing.assert_array_equal(found[name], view.shape[:, k].double().numpy())


def test_names_are_unique_and_patches_are_measured_by_themselves():
    names = [name for row in table(LATENT) for name in row.names]
    assert len(set(names)) == len(names)
    u = busy(4, 6)
    together = measured(u)
    for name, values in together.items():
        if "latent" not in name and name not in SHAPE_NAMES:
            alone = np.concatenate([measured(u[k : k + 1])[name] for k in range(6)])
            np.testing.assert_allclose(alone, values, rtol=1e-5, atol=1e-6)


# --- unit noise ------------------------------------------------------------------------------------------


def test_unit_noise_gives_what_theory_says():
    found = measured(unit(5, 400))
    assert found["mae"].mean() == pytest.approx(math.sqrt(2 / math.pi), rel=0.005)
    for scale in SCALES:
        cells = (SIDE // scale) ** 2
        expected = np.log(np.random.default_rng(0).chisquare(cells, 10_000) / cells).mean()
        assert found[f"square_{scale}"].mean() == pytest.approx(expected, abs=0.05)
    cells = np.stack([found[f"cell_{n}"] for n in range(16)])
    assert cells.mean() == pytest.approx(0, abs=0.002)
    assert cells.std() == pytest.approx(1 / 16, rel=0.1)
    assert (found["stars"] > 0).mean() < 0.01


@given(st.floats(-0.5, 0.5))
@settings(max_examples=20)
def test_cells_measure_an_offset_of_the_sky_in_sigma(offset):
    found = measured(unit(6) + offset)
    cells = np.array([found[f"cell_{n}"][0] for n in range(16)])
    assert cells.mean() == pytest.approx(offset, abs=0.06 + 0.05 * abs(offset))


# --- lines -------------------------------------------------------------------------------------------------


def named(found, *words):
    """The columns whose names contain one of these words; at least one."""
    names = [name for name in found if any(word in name for word in words)]
    assert names
    return names


def with_line(patch, angle, offset, height=1.0):
    """A straight trail of ``height`` sigma a pixel with the profile of stars (sigma 1 px)."""
    distance = (X - SIDE / 2) * math.cos(angle) + (Y - SIDE / 2) * math.sin(angle) - offset
    return patch + height * np.exp(-(distance**2) / 2)


@pytest.fixture(scope="module")
def usual():
    """All statistics of 300 patches of noise, by name."""
    return measured(unit(8, 300))


@given(st.floats(0, math.pi), st.floats(-12, 12))
@settings(max_examples=50)
def test_a_line_of_one_sigma_a_pixel_is_found_at_any_angle(usual, angle, offset):
    found = measured(np.concatenate([with_line(unit(seed), angle, offset) for seed in range(5)]))
    for name in named(found, "line_peak"):
        assert np.median(found[name]) > np.quantile(usual[name], 0.99), name


@pytest.mark.parametrize(("axis", "name", "other"), [(1, "rows", "columns"), (2, "columns", "rows")])
def test_a_row_and_a_column_of_one_sigma(axis, name, other, usual):
    patch = unit(10)
    patch[np.s_[:, 17] if axis == 1 else np.s_[:, :, 17]] += 1
    found = measured(patch)
    for column in named(found, f"{name}_peak"):
        assert found[column][0] > usual[column].max()
    for column in named(found, f"{other}_peak"):
        assert found[column][0] < usual[column].max()


@pytest.mark.parametrize("peak", [10.0, 100.0, 1e4])
def test_one_bright_star_makes_no_line(peak):
    starry = measured(np.stack([p + star(peak, 31.3, 29.8) for p in unit(11, 40)]))
    lined = measured(np.stack([with_line(p, 0.7, 3) for p in unit(11, 40)]))
    for name in named(starry, "line_peak"):
        assert np.median(starry[name]) < np.median(lined[name])


def test_a_slope_of_the_sky_is_no_line(usual):
    sloped = measured(unit(12, 40) + 0.01 * (X - SIDE / 2) - 0.006 * (Y - SIDE / 2))
    for name in named(sloped, "line_peak", "rows_peak", "columns_peak"):
        assert np.median(sloped[name]) < np.quantile(usual[name], 0.8), name


def test_sums_for_lines_are_means_of_cut_pixels_packed_by_three():
    u = busy(15, 2)
    packed = line_sums(view_of(u)).numpy()
    assert packed.shape == (2, 128)
    assert (packed == packed.astype(int)).all()
    assert packed.max() < 2**24  # exact in float32
    cut = np.clip(u, -WINSOR, WINSOR) / WINSOR
    cells = cut.reshape(2, 16, 4, 16, 4).mean(axis=(2, 4)).reshape(2, -1)
    exact = np.concatenate([cells, cut.mean(axis=1), cut.mean(axis=2)], axis=1)
    codes = np.stack([packed.astype(int) >> shift & 255 for shift in (0, 8, 16)], axis=-1).reshape(2, -1)
    np.testing.assert_allclose((codes - 128) / 127, exact, atol=0.5 / 127 + 1e-6)


def test_packing_holds_the_extremes():
    packed = pack(torch.tensor([[-1.0, 0.0, 1.0]]))
    assert packed.tolist() == [[1 + 256 * 128 + 65536 * 255]]


# --- stars and spikes ------------------------------------------------------------------------------


def test_stars_are_counted_and_noise_is_not():
    places = [(9.5, 10.2), (20.1, 50.7), (40.3, 33.3), (55.0, 8.8)]
    patches = np.stack([unit(12)[0] + sum((star(20, *p) for p in places[:n]), 0 * X) for n in range(5)])
    assert measured(patches)["stars"].tolist() == [0, 1, 2, 3, 4]


def test_a_spike_is_no_star():
    noise = unit(13, 30)
    hot, starry = noise.copy(), noise + star(60, 30, 30, sigma=1.3)
    hot[:, 30, 30] += 20
    found, plain = measured(hot)["spike"], measured(noise)["spike"]
    assert found.min() > plain.max()
    assert np.exp(found).mean() == pytest.approx(20 / math.sqrt(1.25), rel=0.03)
    # A star of three times its height, and of thirty times its light, has a third of the spike a peak.
    assert np.exp(measured(starry)["spike"]).mean() / 60 < 0.4 * np.exp(found).mean() / 20


def test_weights_of_lines_have_unit_norm_and_cover_the_patch():
    weights = line_weights(16)
    assert torch.allclose(weights.norm(dim=0), torch.ones(weights.shape[1]), atol=1e-5)
    assert (weights.abs().amax(dim=1) > 0.1).all()

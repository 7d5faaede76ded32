"""Stars of known size and shape: measured by second moments; and fresh noise as the detector's."""

import math

import numpy as np
import pytest
import torch
from aqdask.methods.noise_aware.augmentation import (
    SPREAD,
    TILT,
    Distortion,
    distort,
    draw_distortion,
    targets,
    tilted,
    with_noise,
)

from aqdask.methods.noise_aware.noise_model import expand, linear

SIDE = 64
SIGMA = 1.6


def stars(count, sigma=SIGMA, flux=1000.0, centre=31.5):
    y, x = np.mgrid[:SIDE, :SIDE]
    profile = np.exp(-((y - centre) ** 2 + (x - centre) ** 2) / (2 * sigma**2)) / (2 * math.pi * sigma**2)
    return torch.tensor(np.stack([flux * profile] * count), dtype=torch.float64)


def moments(image):
    """Flux, size ``det(C)**(1/4)``, e1 and e2 of a star from unweighted second moments."""
    y, x = np.mgrid[:SIDE, :SIDE]
    flux = image.sum()
    cy, cx = (image * y).sum() / flux, (image * x).sum() / flux
    xx, yy = (image * (x - cx) ** 2).sum() / flux, (image * (y - cy) ** 2).sum() / flux
    xy = (image * (x - cx) * (y - cy)).sum() / flux
    return flux, (xx * yy - xy**2) ** 0.25, (xx - yy) / (xx + yy), 2 * xy / (xx + yy)


def drawn(count, seed=0):
    what = draw_distortion(count, torch.Generator().manual_seed(seed))
    return Distortion(**{name: value.double() for name, value in vars(what).items()})


def test_sizes_and_shapes_are_those_that_were_asked_for():
    what = drawn(200)
    found = distort(stars(200), torch.full((200,), SIGMA, dtype=torch.float64), what).numpy()
    assert (what.zoom > 1.2).any()
    assert (torch.hypot(what.e1, what.e2) > 0.3).any()
    for image, zoom, size, e1, e2 in zip(found, what.zoom, what.size, what.e1, what.e2, strict=True):
        # Blurring is exact; shrinking interpolates, and costs a few per cent of such narrow stars.
        exact = float(zoom) == 1
        flux, measured, *shape = moments(image)
        assert flux == pytest.approx(1000, rel=1e-4 if exact else 0.06)
        assert measured == pytest.approx(SIGMA * float(size), rel=1e-4 if exact else 0.05)
        assert shape == pytest.approx([float(e1), float(e2)], abs=1e-4 if exact else 0.03)


def test_what_is_unchanged_is_unchanged():
    one = torch.ones(3, dtype=torch.float64)
    light = stars(3) + torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    found = distort(light, SIGMA * one, Distortion(one, one, 0 * one, 0 * one))
    assert torch.allclose(found, light, atol=1e-9)


def test_the_blur_that_is_needed_is_never_negative():
    """Else the star that comes out is not the one that the head is told of."""
    what = drawn(5000, seed=2)
    strength = torch.hypot(what.e1, what.e2)
    across = what.size**2 * ((1 - strength) / (1 + strength)).sqrt()
    assert (across * what.zoom**2 >= 1 - 1e-5).all()


def test_every_class_is_drawn():
    what = drawn(4000, seed=3)
    ln_size, strength = what.size.log(), torch.hypot(what.e1, what.e2)
    unchanged = (ln_size == 0) & (strength == 0) & (what.zoom == 1)
    for share in (unchanged, ln_size > 0.05, ln_size < -0.05, strength > 0.05):
        assert 0.1 < share.double().mean() < 0.7
    assert abs(float(what.e1.mean())) < 0.02
    again = drawn(4000, seed=3)
    assert torch.equal(again.e1, what.e1)


@pytest.mark.parametrize("q", [0.0, 0.02, 0.2])
@pytest.mark.parametrize("light", [0.0, 5.0, 200.0])
def test_fresh_noise_has_the_variance_of_the_detector(q, light):
    q_, generator = torch.full((8,), q), torch.Generator().manual_seed(4)
    v = with_noise(torch.full((8, SIDE, SIDE), light), q_, generator)
    back = linear(expand(v), q_[:, None, None]).double()
    truth = 1 + q * light
    assert float(back.var()) == pytest.approx(truth, rel=0.05)
    assert float(back.mean()) == pytest.approx(light, abs=4 * math.sqrt(truth / v.numel()) + 1e-3 * light)


def test_noise_of_neighbours_is_independent():
    v = with_noise(torch.zeros(8, SIDE, SIDE), torch.zeros(8), torch.Generator().manual_seed(5))
    assert abs(float((v[:, 1:] * v[:, :-1]).mean())) < 0.02


def test_targets_are_in_units_of_their_spread():
    what = Distortion(*(torch.tensor([x]) for x in (1.0, 2.0, 0.1, -0.2)))
    found = targets(torch.tensor([1.5]), what, unit=1.0)[0] * torch.tensor(SPREAD)
    np.testing.assert_allclose(found.numpy(), [math.log(3.0), 0.1, -0.2], rtol=1e-6)


def test_a_tilted_crop_has_a_plane_of_sky_more_and_its_mean_is_kept():
    u, q = torch.zeros(50, SIDE, SIDE), torch.full((50,), 0.03)
    found = linear(tilted(u, q, torch.Generator().manual_seed(1)), q[:, None, None])
    assert found.mean(dim=(1, 2)).abs().max() < 1e-5
    torch.testing.assert_close(found, -found.flip(1, 2), rtol=0, atol=1e-5)
    bends = found[:, 2:] - 2 * found[:, 1:-1] + found[:, :-2]
    assert bends.abs().max() < 1e-5
    rise = (found[:, -1] - found[:, 0]).mean(dim=1) / 2
    assert 0.8 * TILT < rise.abs().max() <= TILT

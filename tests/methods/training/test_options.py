"""Training options: each does what it says, is recorded in the bundle, and leaves the default as it was."""

import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from aqdask.errors import ModelError, UsageError
from aqdask.methods.base import FrameSource, score_frame
from aqdask.methods.bundle import FORMAT, LATER_VERSION, VERSION, Bundle
from aqdask.methods.container import unpack
from aqdask.methods.dispatch import load_scorer, train
from aqdask.methods.noise_aware.feature_extractor import FeatureExtractor
from aqdask.methods.noise_aware.networks import PLAIN, Networks, fresh_networks
from aqdask.methods.noise_aware.noise_model import compress
from aqdask.methods.paper import train as paper_train
from aqdask.methods.paper.network import ConvAutoencoder, widths_of
from aqdask.methods.shipped import load_shipped
from aqdask.methods.training import augmentation, losses
from aqdask.methods.training.loss_functions import (
    FUNCTIONS,
    Inputs,
    PatchDiscriminator,
    ReconstructionLoss,
    vgg,
)
from aqdask.methods.training.losses import LOSSES, parse_loss
from aqdask.methods.training.options import ARCHITECTURES, AUGMENTATIONS, NORMS, NetworkOptions, augmentations
from aqdask.methods.training.schedules import SCHEDULES, factor
from aqdask.methods.training.settings import OPTIONS, TrainSpec
from aqdask.specs import FrameMetadata

PAPER = TrainSpec(method="paper", steps=2, batch=4)
NETWORKS = [
    replace(PLAIN, architecture="skip"),
    replace(PLAIN, architecture="attention"),
    replace(PLAIN, depth=2, width=8),
    replace(PLAIN, architecture="skip", depth=3, norm="group"),
    replace(PLAIN, norm="none"),
]


class Frames(FrameSource):
    """Small frames of noise with a few bright pixels."""

    ids = tuple("abcd")
    metadata = (FrameMetadata(camera="cam", filter="L"),) * 4

    def read(self, index):
        generator = np.random.default_rng(index)
        image = generator.poisson(400, (128, 192)).astype(np.uint16)
        image[generator.integers(0, 128, 9), generator.integers(0, 192, 9)] += 3000
        return image, None


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(paper_train, "HELD_OUT_CROPS", 4)


@pytest.fixture
def inputs():
    return Inputs(span=10.0, in_sigma=lambda values, like: values, seed=1, device=torch.device("cpu"))


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stirred(network):
    """The same network with weights and statistics as after a training, so that no layer is an identity."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for values in network.state_dict().values():
            if values.is_floating_point():
                values += 0.1 * torch.rand_like(values)
    return network.eval()


# --- tables --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("mse", {"mse": 1}),
        ("ssim:0.2+mse:0.8", {"ssim": 0.2, "mse": 0.8}),
        ("adversarial:0.1+mae", {"adversarial": 0.1, "mae": 1}),
        *((text, None) for text in ("", "mse+", "mse:0", "mse:nan", "mse:x", "mse+mse", "l2", "adversarial")),
    ],
)  # fmt: skip
def test_a_loss_is_a_name_or_a_weighted_sum(text, weights):
    assert parse_loss(text) == weights


def test_augmentations_are_names_joined_by_plus_in_the_order_of_the_table():
    assert augmentations("noise+flips") == ("flips", "noise")
    assert augmentations("none") == ()
    assert [augmentations(text) for text in ("", "flips+flips", "flips+none", "other")] == [None] * 4


def test_every_row_of_a_table_has_its_function():
    assert FUNCTIONS.keys() == LOSSES.keys()
    assert {*augmentation.FUNCTIONS, *augmentation.ORIENTATIONS} == AUGMENTATIONS.keys()


@pytest.mark.parametrize(
    ("field", "value"),
    [("architecture", "deep"), ("depth", 0), ("width", 6), ("norm", "layer"), ("dropout", 1.0),
     ("loss", "adversarial"), ("augment", "flip"), ("schedule", "linear"), ("warm_up", -1)],
)  # fmt: skip
def test_an_option_out_of_range_is_refused(field, value):
    with pytest.raises(UsageError, match=rf"setting {field} is .*Expected: .*What to do: leave {field} out"):
        TrainSpec(**{field: value})


def test_a_loss_without_its_package_is_refused(monkeypatch):
    monkeypatch.setattr(losses, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"'ssim' without the package .*pip install pytorch-msssim"):
        TrainSpec(loss="ssim+mse")


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("cosine", lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 300)),
        ("step", lambda optimizer: lr_scheduler.StepLR(optimizer, 100)),
        ("one-cycle", lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 1.0, 300)),
        ("constant", lambda optimizer: lr_scheduler.ConstantLR(optimizer, 1.0)),
    ],
)
@pytest.mark.filterwarnings("ignore:Detected call of")
def test_schedules_are_those_of_torch(name, make):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler, rates = make(optimizer), []
    for _ in range(300):
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
    found = [factor(name, step, 300) for step in range(300)]
    np.testing.assert_allclose(found, rates, atol=0.02)  # torch's cycle is a step shorter
    assert factor(name, 0, 300, 10) == pytest.approx(rates[0] / 10)
    assert name in SCHEDULES


# --- losses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, row in LOSSES.items() if row.reconstructs and name != "vgg"])
def test_a_loss_is_least_for_an_exact_reconstruction(name, inputs):
    loss, target = ReconstructionLoss(name, inputs), 3 * noise(2, 1, 64, 64)
    output = (target + 0.3 * noise(2, 1, 64, 64, seed=2)).requires_grad_()
    assert loss(target, target).item() == pytest.approx(0, abs=1e-5)
    found = loss(output, target)
    assert found.item() > 1e-3
    found.backward()
    assert output.grad.abs().mean() > 0


def test_the_losses_of_pixels_are_means_and_sums_are_weighted(inputs):
    a, b = torch.tensor([[0.0, 3.0]]), torch.tensor([[0.5, 0.0]])
    single = {"mse": (0.25 + 9) / 2, "mae": 3.5 / 2, "huber": (0.125 + 2.5) / 2}
    found = {text: ReconstructionLoss(text, inputs)(a, b).item() for text in (*single, "mae:0.5+mse:2")}
    assert found == pytest.approx(single | {"mae:0.5+mse:2": 0.5 * 1.75 + 2 * 4.625})


def test_a_discriminator_learns_along_and_does_not_count_when_held_out(inputs):
    state = torch.random.get_rng_state()
    loss = PatchDiscriminator(inputs)
    assert torch.equal(torch.random.get_rng_state(), state)
    target = 10 * noise(8, 1, 32, 32)
    for _ in range(60):
        loss(torch.zeros_like(target), target)
    with torch.no_grad():
        assert loss(torch.zeros_like(target), target) > 3 * loss(target, target)  # it tells what is not real
        assert loss(torch.zeros_like(target), target) == loss(torch.zeros_like(target), target)
        both = ReconstructionLoss("adversarial+mse", inputs)
        assert both(target, target, held_out=True) == 0
        assert both(target, target) > 0


def test_vgg_takes_weights_that_are_there_and_downloads_nothing(inputs, monkeypatch, tmp_path):
    fake = ModuleType("torchvision.models")
    fake.VGG16_Weights = SimpleNamespace(IMAGENET1K_V1=SimpleNamespace(url="https://example.org/vgg16.pth"))
    fake.vgg16 = lambda weights: SimpleNamespace(features=torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3)))
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", fake)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UsageError, match=r"no file .*vgg16\.pth.*What to do: put the file there"):
        vgg(inputs)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/vgg16.pth").touch()
    loss, target = vgg(inputs), noise(2, 1, 16, 16)
    assert loss(target, target) == 0
    assert loss(target + 1, target) > 0


# --- augmentation --------------------------------------------------------------------------------------


def test_orientations_are_reduced_to_those_that_are_asked_for():
    turns = np.arange(8)
    found = {
        names: sorted({*augmentation.orientations(turns, names)})
        for names in [(), ("flips",), ("rotations",), ("flips", "rotations")]
    }
    assert [*found.values()] == [[0], [0, 2, 4, 6], [0, 1, 2, 3], [*range(8)]]


@pytest.mark.parametrize("name", augmentation.FUNCTIONS)
def test_an_augmentation_follows_from_seed_and_step(name):
    light = noise(16, 64, 64)
    found = augmentation.distort(light, [name], 1, 2)
    assert torch.equal(found, augmentation.distort(light, [name, "flips"], 1, 2))
    assert not torch.equal(found, augmentation.distort(light, [name], 1, 3))
    assert torch.isfinite(found).all()
    assert found.shape == light.shape


def test_augmentations_change_what_they_say():
    stars = torch.zeros(200, 64, 64)
    stars[:, 22:42, 22:42] = 1000.0
    sky = noise(200, 64, 64)
    changed = {name: augmentation.distort(sky + stars, [name], 1, 0) for name in augmentation.FUNCTIONS}
    fluxes = changed["flux"][:, 31, 31] / 1000
    assert 0.69 < fluxes.min() < 0.75
    assert 0.95 < fluxes.max() < 1.01
    assert changed["flux"][:, :20].std() == pytest.approx(1, abs=0.02)
    added = changed["noise"] - sky - stars
    assert 0.1 < added.std() < 0.3
    plane = changed["background"] - sky - stars
    assert 1.5 < plane.abs().max() <= 2.001
    wide = (changed["scale"] > 500).sum(dim=(1, 2))
    assert wide.min() < 400 < wide.max()


# --- networks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", NETWORKS, ids=str)
def test_the_extractor_measures_what_the_network_reconstructs(options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        networks = stirred(Networks(options=options.stored()))
    u = 3 * noise(2, 64, 64)
    with torch.inference_mode():
        wanted = networks.autoencoder(compress(u)[:, None])[:, 0]
        found = compress(u) - FeatureExtractor(networks).view(u).residual
    torch.testing.assert_close(found, wanted, atol=2e-4, rtol=1e-4)
    assert wanted.std() > 1e-3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("norm", NORMS)
def test_the_published_network_has_the_same_options(architecture, norm):
    options = NetworkOptions(architecture, 3, 8, norm)
    network = stirred(ConvAutoencoder(widths_of(options), options.stored()))
    values = noise(2, 1, 32, 32)
    assert network(values).shape == values.shape
    latent = network.encoder(values)
    assert latent.shape == (2, 8, 4, 4)
    past = not torch.equal(network(values), network.decoder(latent))
    assert past == (architecture == "skip")  # only skip connections get round the bottleneck
    assert widths_of(NetworkOptions("plain", 4, 16, "none")) == (16, 32, 64, 16)


def test_dropout_changes_no_name_of_the_weights_and_nothing_in_evaluation():
    shipped = load_shipped()
    networks = fresh_networks(shipped, NETWORKS[0], 0.3, seed=1)
    assert networks.state_dict().keys() == fresh_networks(shipped, NETWORKS[0], 0.0, 1).state_dict().keys()
    values = noise(1, 1, 64, 64)
    dropped = [networks.autoencoder.train()(values) for _ in range(2)]
    assert not torch.equal(*dropped)
    kept = [networks.autoencoder.eval()(values) for _ in range(2)]
    assert torch.equal(*kept)


# --- bundles -------------------------------------------------------------------------------------------


OPTIONAL = [
    {"architecture": "skip", "norm": "batch"}, {"architecture": "attention"}, {"depth": 2, "width": 8},
    {"loss": "ssim:0.2+mse:0.8"}, {"loss": "perceptual+mae"}, {"loss": "adversarial:0.1+mse"},
    {"dropout": 0.2},
    {"augment": "none"}, {"augment": "rotations+background+noise+scale"}, {"schedule": "one-cycle"},
    {"schedule": "step", "warm_up": 1},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONAL, ids=str)
def test_a_bundle_of_any_option_is_reproducible_records_it_and_scores(options):
    spec = replace(PAPER, **options)
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    bundle = train(Frames(), spec)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert bundle.digest != train(Frames(), PAPER).digest
    torch.manual_seed(6)
    assert train(Frames(), spec).contents == bundle.contents
    loaded = Bundle.from_bytes(bundle.contents)
    told = loaded.provenance["settings"]
    assert {name: told[name] for name in options} == options
    assert not {name for name in OPTIONS if name not in options} & told.keys()
    maps = score_frame(load_scorer(loaded), Frames().read(0)[0], None, "cam", "L")
    assert np.isfinite(maps["score"]).all()


@pytest.mark.parametrize(
    ("options", "version"),
    [({}, VERSION), ({"depth": 2}, VERSION), ({"dropout": 0.1}, VERSION),
     ({"norm": "group"}, LATER_VERSION), ({"architecture": "skip"}, LATER_VERSION)],
)  # fmt: skip
def test_only_what_earlier_releases_would_misread_has_another_version(options, version):
    contents = train(Frames(), replace(PAPER, **options)).contents
    unpack(contents, FORMAT, (version,))
    if version == LATER_VERSION:  # as an earlier release reads it
        with pytest.raises(
            ModelError, match=r"version 4\. Expected: version 2 or 3\..*install the release of aqd"
        ):
            unpack(contents, FORMAT, (2, VERSION))


@pytest.mark.parametrize(
    "change", [{"architecture": "later"}, {"width": 10**9}, {"depth": [1]}, {"heads": 2}]
)
def test_a_network_that_this_release_does_not_know_is_refused(change):
    bundle = train(Frames(), replace(PAPER, architecture="skip"))
    stated = {**bundle.architecture["options"], **change}
    other = replace(bundle, architecture={**bundle.architecture, "options": stated})
    with pytest.raises(
        ModelError, match=r"do not fit its architecture .*What to do: .*install the one that wrote"
    ):
        load_scorer(Bundle.from_bytes(other.contents))


def test_flux_means_nothing_after_min_max():
    with pytest.raises(UsageError, match=r"augmentation flux with the method 'paper'.*leave flux out"):
        train(Frames(), replace(PAPER, augment="flips+flux"))


def test_a_deep_network_needs_a_large_patch():
    with pytest.raises(UsageError, match=r"the patch is 64 px\. Expected: 128 px, or a multiple"):
        train(Frames(), TrainSpec(depth=5))

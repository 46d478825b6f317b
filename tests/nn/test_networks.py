"""Networks: shapes at any size, smooth energies, rows that never mix, levels and labels that matter."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import energyscape.nn as rooms
from energyscape.nn import (
    EMA,
    MLP,
    Conditioning,
    FourierEmbedding,
    LabelEmbedding,
    PictureEnergyNet,
    PictureNet,
    ResidualMLP,
    Waves,
    spectrally_normalised,
)

F64 = torch.float64
Maker = Callable[..., nn.Module]

#: Small makers of each network, joined to the contract below; `(event shape, keywords) -> network`.
NETWORKS: dict[str, Maker] = {
    "MLP": lambda shape, **kw: MLP(shape, width=16, depth=2, **kw),
    "ResidualMLP": lambda shape, **kw: ResidualMLP(shape, width=16, blocks=2, **kw),
    "ResidualMLP with waves": lambda shape, **kw: ResidualMLP(
        shape, width=16, blocks=2, waves=8, **kw
    ),
    "PictureNet": lambda shape, **kw: PictureNet(shape, width=6, blocks=1, **kw),
}
#: Networks that give one number a row and nothing else.
ENERGIES: dict[str, Maker] = {
    "PictureEnergyNet": lambda shape, **kw: PictureEnergyNet(shape, width=4, **kw),
}
PARTS = {"Conditioning": Conditioning, "EMA": EMA, "spectrally_normalised": spectrally_normalised}
EMBEDDINGS = {
    "FourierEmbedding": FourierEmbedding,
    "LabelEmbedding": LabelEmbedding,
    "Waves": Waves,
}
LABELLED = ["ResidualMLP", "PictureNet"]


def awake(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network in float64 with every weight drawn, so that no zero start hides a dependence."""
    rng = torch.Generator().manual_seed(seed)
    network = network.to(F64).eval()
    with torch.no_grad():
        for p in network.parameters():
            fan_in = p[0].numel() if p.ndim > 1 else 4
            p.copy_(torch.randn(p.shape, generator=rng, dtype=F64) / fan_in**0.5)
    return network


def batch(shape: tuple[int, ...], n: int = 5, seed: int = 1) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return (
        torch.randn((n, *shape), generator=rng, dtype=F64),
        torch.randn(n, generator=rng, dtype=F64),
    )


def test_every_public_name_is_under_test() -> None:
    assert set(rooms.__all__) == {
        *(name.split()[0] for name in NETWORKS),
        *ENERGIES,
        *PARTS,
        *EMBEDDINGS,
        *("ByLevel", "GreyNet"),  # in test_grey.py
    }


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 7), (1, 3, 1)])
def test_a_field_has_the_shape_of_its_input_and_an_energy_one_value_a_row(
    name: str, shape: tuple[int, ...]
) -> None:
    x, c_noise = batch(shape)
    assert awake(NETWORKS[name](shape, noise=True))(x, c_noise).shape == x.shape
    assert awake(NETWORKS[name](shape, noise=False))(x).shape == x.shape
    assert awake(NETWORKS[name](shape, scalar=True, noise=True))(x, c_noise).shape == (5,)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 17, 22), (4, 16, 33), (1, 1, 1), (2, 40, 3)])
@pytest.mark.parametrize("patch", [None, 1, 2, 3])
def test_pictures_of_any_size_pass_through_any_patches(
    shape: tuple[int, int, int], patch: int | None
) -> None:
    x, c_noise = batch(shape, n=2)
    assert awake(NETWORKS["PictureNet"](shape, patch=patch))(x, c_noise).shape == x.shape


def test_patches_reach_every_pixel_in_both_directions() -> None:
    x, c_noise = batch((1, 17, 19), n=1)
    network = awake(NETWORKS["PictureNet"]((1, 17, 19), patch=2))
    x.requires_grad_(True)
    out = network(x, c_noise)
    (grad,) = torch.autograd.grad(out.square().sum(), x)
    assert bool((grad != 0).all())
    assert bool((out != 0).all())


@pytest.mark.parametrize("name", NETWORKS)
def test_rows_never_mix(name: str) -> None:
    shape = (1, 5, 6)
    x, c_noise = batch(shape)
    network = awake(NETWORKS[name](shape, noise=True))
    together = network(x, c_noise)
    for i in range(len(x)):
        torch.testing.assert_close(
            together[i : i + 1], network(x[i : i + 1], c_noise[i : i + 1]), rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("name", NETWORKS)
def test_an_energy_is_twice_differentiable_and_not_piecewise_linear(name: str) -> None:
    shape = (1, 3, 4)
    x, c_noise = batch(shape, n=2)
    energy = awake(NETWORKS[name](shape, scalar=True, noise=True))
    x.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda z: energy(z, c_noise), x)
    assert torch.autograd.gradgradcheck(lambda z: energy(z, c_noise).sum(), x)
    hessian = torch.autograd.functional.hessian(lambda z: energy(z, c_noise[:1]).sum(), x[:1])
    assert bool((hessian.reshape(12, 12).abs().sum(1) > 1e-6).all())


@pytest.mark.parametrize("name", NETWORKS)
def test_the_level_matters_and_is_required(name: str) -> None:
    shape = (1, 4, 4)
    x, c_noise = batch(shape)
    network = awake(NETWORKS[name](shape, noise=True))
    assert not torch.allclose(network(x, c_noise), network(x, c_noise + 0.5))
    with pytest.raises(ValueError, match="pass c_noise"):
        network(x)


@pytest.mark.parametrize("name", LABELLED)
def test_labels_matter_row_by_row_and_minus_one_is_no_label(name: str) -> None:
    shape = (1, 4, 4)
    x, c_noise = batch(shape, n=2)
    network = awake(NETWORKS[name](shape, num_labels=3))
    base = network(x, c_noise, torch.tensor([0, 1]))
    other = network(x, c_noise, torch.tensor([2, 1]))
    assert not torch.allclose(base[0], other[0])
    torch.testing.assert_close(base[1], other[1])
    torch.testing.assert_close(network(x, c_noise, torch.tensor([-1, -1])), network(x, c_noise))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_label_for_a_network_without_labels_is_refused(name: str) -> None:
    x, c_noise = batch((1, 4, 4), n=2)
    with pytest.raises(ValueError, match="takes no labels"):
        awake(NETWORKS[name]((1, 4, 4), noise=True))(x, c_noise, torch.tensor([0, 1]))


@pytest.mark.parametrize("name", LABELLED)
def test_every_weight_learns_once_the_last_layer_has_left_zero(name: str) -> None:
    shape = (1, 8, 8)
    x, c_noise = batch(shape)
    network = awake(NETWORKS[name](shape, num_labels=2)).train()
    network(x, c_noise, torch.tensor([0, 1, -1, 0, 1])).square().sum().backward()
    still = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


@pytest.mark.parametrize("name", LABELLED)
def test_a_field_starts_at_zero(name: str) -> None:
    x, c_noise = batch((1, 8, 8))
    network = NETWORKS[name]((1, 8, 8))
    assert not network(x.float(), c_noise.float()).any()


@pytest.mark.parametrize("name", LABELLED)
def test_dropout_acts_in_training_only(name: str) -> None:
    x, c_noise = batch((1, 8, 8))
    network = awake(NETWORKS[name]((1, 8, 8), dropout=0.5))
    assert torch.equal(network(x, c_noise), network(x, c_noise))
    network.train()
    assert not torch.equal(network(x, c_noise), network(x, c_noise))


@pytest.mark.parametrize("name", ENERGIES)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 7), (1, 3, 1), (1, 17, 19)])
def test_an_energy_of_pictures_is_smooth_and_row_by_row(name: str, shape: tuple[int, ...]) -> None:
    """One number a row, twice differentiable, from every pixel, with and without a level or class."""
    x, c_noise = batch(shape, n=2)
    assert awake(ENERGIES[name](shape, noise=False))(x).shape == (2,)
    energy = awake(ENERGIES[name](shape, num_labels=2))
    label = torch.tensor([0, 1])
    together = energy(x, c_noise, label)
    torch.testing.assert_close(together[1:], energy(x[1:], c_noise[1:], label[1:]))
    assert bool((together != energy(x, c_noise + 0.5, label)).all())
    assert bool((together != energy(x, c_noise, 1 - label)).all())
    x.requires_grad_(True)
    (grad,) = torch.autograd.grad(energy(x, c_noise).sum(), x, create_graph=True)
    assert bool((grad != 0).all())
    assert torch.autograd.gradcheck(lambda z: energy(z, c_noise), x, fast_mode=True)
    (second,) = torch.autograd.grad(grad.square().sum(), x)
    assert bool((second != 0).all())
    with pytest.raises(ValueError, match="pass c_noise"):
        energy(x)


@pytest.mark.parametrize(
    ("sides", "levels"), [((4, 4), 1), ((8, 8), 2), ((7, 9), 2), ((28, 28), 3), ((40, 200), 3)]
)
def test_pictures_are_halved_as_long_as_a_side_of_four_is_left(
    sides: tuple[int, int], levels: int
) -> None:
    assert len(PictureNet((1, *sides), width=4).down) == levels


def test_channels_grow_with_the_resolutions() -> None:
    net = PictureNet((1, 28, 28), width=4, growth=(1, 3))
    assert [stage[0].second.out_channels for stage in net.down] == [4, 12, 12]  # type: ignore[index, union-attr]
    assert [stage[0].second.out_channels for stage in net.up] == [12, 12, 4]  # type: ignore[index, union-attr]


def test_wrong_pictures_and_sizes_are_named() -> None:
    with pytest.raises(ValueError, match=r"\(channels, height, width\)"):
        PictureNet((8, 8))
    with pytest.raises(ValueError, match=r"\(channels, height, width\)"):
        PictureEnergyNet((8, 8))
    with pytest.raises(ValueError, match=r"expected pictures \(1, 8, 8\), got \(1, 9, 8\)"):
        PictureEnergyNet((1, 8, 8), width=4)(torch.zeros(2, 1, 9, 8), torch.zeros(2))
    with pytest.raises(ValueError, match=r"expected pictures \(1, 8, 8\), got \(1, 9, 8\)"):
        PictureNet((1, 8, 8), width=4)(torch.zeros(2, 1, 9, 8), torch.zeros(2))
    with pytest.raises(ValueError, match="even dimension"):
        FourierEmbedding(3)
    with pytest.raises(ValueError, match="num_labels"):
        LabelEmbedding(0, 4)


def test_fourier_features_have_unit_mean_square_and_tell_levels_apart() -> None:
    c_noise = torch.linspace(-6, 6, 601, dtype=F64)
    features = FourierEmbedding(64)(c_noise)
    torch.testing.assert_close(features.square().mean(1), torch.ones_like(c_noise))
    gaps = (features[1:] - features[:-1]).norm(dim=1)
    assert float(gaps.min()) > 0.05


def test_conditioning_without_anything_is_none() -> None:
    nothing = Conditioning(8, noise=False)
    assert nothing.dim == 0
    assert nothing(3) is None


@pytest.mark.parametrize("name", NETWORKS)
def test_spectral_normalisation_holds_every_layer_but_the_last(name: str) -> None:
    """Singular values by SVD after some power iterations, from weights a hundred times too large."""
    torch.manual_seed(0)
    network = NETWORKS[name]((1, 4, 4), scalar=True, noise=False)
    layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    last = layers[-1].weight.detach().clone()
    assert spectrally_normalised(network) is network
    for layer in layers[:-1]:
        with torch.no_grad():
            layer.parametrizations.weight.original.mul_(100.0)  # type: ignore[union-attr]
    x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    for _ in range(60):
        network(x)
    for layer in layers[:-1]:
        weight = layer.weight.detach().flatten(1)
        assert float(torch.linalg.matrix_norm(weight, 2)) == pytest.approx(1.0, abs=0.02)
    assert torch.equal(layers[-1].weight, last)
    network.eval()
    assert torch.equal(network(x), network(x))
    loss = torch.autograd.grad(network(x.requires_grad_()).sum(), x, create_graph=True)[0]
    loss.square().sum().backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in network.parameters())


def test_a_perceptron_so_normalised_is_no_steeper_than_its_last_layer() -> None:
    """Slopes of SiLU reach 1.1: three layers before the last one give at most 1.1^3 of its norm."""
    torch.manual_seed(0)
    network = spectrally_normalised(MLP((2,), width=16, depth=3, scalar=True))
    x = 3 * torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    for _ in range(30):
        network(x)
    (slope,) = torch.autograd.grad(network(x.requires_grad_()).sum(), x)
    top = 1.1**3 * float(network.layers[-1].weight.detach().norm())  # type: ignore[arg-type, operator]
    assert 0 < float(slope.norm(dim=1).max()) <= 1.001 * top


def test_a_network_of_one_layer_has_nothing_to_normalise() -> None:
    with pytest.raises(ValueError, match="nothing would be normalised"):
        spectrally_normalised(nn.Linear(2, 1))

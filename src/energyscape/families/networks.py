"""Which network a family takes when the settings leave it open: by the shape of the data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from energyscape.nn import MLP, PictureEnergyNet, PictureNet, ResidualMLP
from energyscape.products import Linear

__all__ = [
    "FEW",
    "PICTURE_NETWORK",
    "WaveMLP",
    "energy_network",
    "field_network",
    "level_energy_network",
    "ratio_network",
    "score_network",
]

#: Pictures of fewer pixels than this are learned better, and faster, by a perceptron.
_SMALLEST_PICTURE = 100

#: In so few dimensions a density has detail that a perceptron of the bare coordinates learns slowly.
FEW = 4


#: Of the networks of pictures that a family takes by itself, the one of today. Facts say which it was.
PICTURE_NETWORK = 2


def field_network(
    settings: Mapping[str, Any],
    facts: Mapping[str, Any],
    *,
    waves: bool = False,
    outputs: int | None = None,
) -> nn.Module:
    """A noise-conditional field: a residual perceptron, or a picture network for pictures.

    Parameters
    ----------
    settings : mapping
        ``network``, ``width``, ``blocks`` and ``dropout`` of a family.
    facts : mapping
        ``event_shape``, the shape of one encoded row; ``classes``, where there are some; and
        ``picture_network``, see `PICTURE_NETWORK`.
    waves : bool
        Whether a perceptron sees as many waves through the coordinates as it has units.
    outputs : int, optional
        Numbers a row that a perceptron gives, instead of a field.

    Raises
    ------
    ValueError
        If a picture network is asked for on a table.
    """
    width, blocks, dropout = settings["width"], settings["blocks"], settings["dropout"]
    event_shape, num_labels = facts["event_shape"], len(facts.get("classes", ()))
    if is_picture(settings, event_shape):
        first = facts.get("picture_network", 1) == 1
        return PictureNet(
            event_shape,
            width=width or (32 if first else 40),
            blocks=blocks or (2 if first else 1),
            num_labels=num_labels,
            dropout=dropout,
            **(_former(event_shape) if first else {}),
        )
    width = width or 256
    return ResidualMLP(
        event_shape,
        width=width,
        blocks=blocks or 4,
        num_labels=num_labels,
        dropout=dropout,
        waves=width if waves else 0,
        outputs=outputs,
    )


def _former(event_shape: Sequence[int]) -> dict[str, Any]:
    """Resolutions of the first network of pictures: one less at 28 x 28, and not as wide below."""
    side = min(event_shape[1:])
    patches = -(-side // 2) if side >= 16 else side
    return {"levels": max(1, min(3, (patches // 4).bit_length())), "growth": (1, 2, 2)}


def energy_network(settings: Mapping[str, Any], event_shape: Sequence[int]) -> nn.Module:
    """A smooth scalar network without noise level; chains call it often, so it is a small one.

    ``blocks`` counts the hidden layers of the perceptron.
    """
    width, blocks = settings["width"], settings["blocks"]
    if is_picture(settings, event_shape):
        return PictureEnergyNet(event_shape, width=width or 32, blocks=blocks or 1, noise=False)
    dim = math.prod(event_shape)
    if dim <= FEW:
        return WaveMLP(event_shape, width=width or 64, depth=blocks or 2, scalar=True)
    wide = 128 if dim <= 16 else 256
    return MLP(event_shape, width=width or wide, depth=blocks or 3, scalar=True)


def ratio_network(
    settings: Mapping[str, Any], event_shape: Sequence[int], outputs: int
) -> nn.Module:
    """The perceptron of an energy with several numbers a row, shape (batch, outputs)."""
    width, blocks = settings["width"], settings["blocks"]
    dim = math.prod(event_shape)
    if dim <= FEW:
        return WaveMLP(event_shape, width=width or 64, depth=blocks or 2, outputs=outputs)
    wide = width or (128 if dim <= 16 else 256)
    layers = list(MLP(event_shape, width=wide, depth=blocks or 3, scalar=True).layers)
    return nn.Sequential(nn.Flatten(1), *layers[:-1], Linear(wide, outputs))


class PerClass(nn.Module):
    """A network with one number for each class and a last one for no class (label -1).

    Parameters
    ----------
    network : Module
        Of outputs (batch, classes + 1).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, x: Tensor, c_noise: Tensor | None = None, label: Tensor | None = None
    ) -> Tensor:
        """The number that stands for each row's class, shape (batch,)."""
        if c_noise is not None:
            raise ValueError("this network takes no noise level")
        out = cast(Tensor, self.network(x))
        none = out.shape[1] - 1
        if label is None:
            return out[:, none]
        index = torch.where((label < 0) | (label > none), none, label)
        return out.gather(1, index[:, None]).squeeze(1)


def level_energy_network(
    settings: Mapping[str, Any], event_shape: Sequence[int], num_labels: int = 0
) -> nn.Module:
    """A smooth scalar network that is told the noise level, and the class where there are some."""
    width, blocks = settings["width"], settings["blocks"]
    if is_picture(settings, event_shape):
        return PictureEnergyNet(
            event_shape, width=width or 32, blocks=blocks or 1, num_labels=num_labels
        )
    return ResidualMLP(
        event_shape, width=width or 128, blocks=blocks or 3, scalar=True, num_labels=num_labels
    )


def score_network(settings: Mapping[str, Any], event_shape: Sequence[int]) -> nn.Module:
    """A smooth field without noise level, as small as an energy's network."""
    width, blocks = settings["width"], settings["blocks"]
    if is_picture(settings, event_shape):
        former = _former(event_shape)
        return PictureNet(event_shape, width=width or 16, blocks=blocks or 1, noise=False, **former)
    dim = math.prod(event_shape)
    if dim <= FEW:
        return WaveMLP(event_shape, width=width or 64, depth=blocks or 2)
    wide = 128 if dim <= 16 else 256
    return MLP(event_shape, width=width or wide, depth=blocks or 3)


class _Features(torch.autograd.Function):
    """``(x, sin(W x + b))`` and ``cos(W x + b)``: the derivative of either is there already."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, frequency: Tensor, phase: Tensor) -> tuple[Tensor, Tensor]:
        features, cosine = _features(x, frequency, phase)
        ctx.save_for_backward(x, frequency, features, cosine)
        return features, cosine

    @staticmethod
    def backward(ctx: Any, from_features: Tensor, from_cosine: Tensor) -> Any:
        x, frequency, features, cosine = ctx.saved_tensors
        split = [x.shape[1], len(frequency)]
        direct, from_sine = from_features.split(split, 1)
        sine = features.split(split, 1)[1]
        angle = torch.addcmul(from_sine * cosine, from_cosine, sine, value=-1)
        # A product of a few rows with many columns is faster than one of many rows with a few.
        by_rows = torch.addmm(direct, angle, frequency) if ctx.needs_input_grad[0] else None
        return by_rows, (x.t() @ angle).t(), angle.sum(0)


def _features(x: Tensor, frequency: Tensor, phase: Tensor) -> tuple[Tensor, Tensor]:
    angle = nn.functional.linear(x, frequency, phase)
    return torch.cat([x, angle.sin()], 1), angle.cos()


class _Waves(NamedTuple):
    """``z = (x, sin(W x + b))`` with its derivatives."""

    x: Tensor
    features: Tensor
    cos: Tensor
    frequency: Tensor
    phase: Tensor

    @property
    def parameters(self) -> tuple[Tensor, Tensor]:
        return self.frequency, self.phase

    def parameter_gradients(self, f: Tensor, g: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        dim = self.x.shape[1]
        turn = nn.functional.linear(v, self.frequency)
        slope = g[:, dim:] * self.cos
        angle = torch.addcmul(
            f[:, dim:] * self.cos, g[:, dim:] * turn, self.features[:, dim:], value=-1
        )
        # A product of a few rows with many columns is faster than one of many rows with a few.
        return torch.addmm(self.x.t() @ angle, v.t(), slope).t(), angle.sum(0)

    def pull(self, g: Tensor) -> Tensor:
        # Column by column in memory: the gradient of the waves is then a short product, not a thin one.
        columns = self.frequency.t().contiguous()
        direct, by_waves = g.split([len(columns), len(self.frequency)], 1)
        return nn.functional.linear(self.cos * by_waves, columns) + direct

    def push(self, v: Tensor) -> Tensor:
        return torch.cat([v, self.cos * nn.functional.linear(v, self.frequency)], 2)

    def bend(self, g: Tensor, v: Tensor) -> Tensor:
        dim = self.frequency.shape[1]
        turned = nn.functional.linear(v, self.frequency).square()
        return -(g[:, dim:] * self.features[:, dim:] * turned).sum(2)


class WaveMLP(nn.Module):
    """A perceptron of the coordinates and of learned waves ``sin(w x + b)`` through them.

    Wavelengths start log-uniform between twenty and three quarters of a standard deviation of data at
    unit scale, in random directions: narrow modes and long ridges are both a few units away
    (2006.10739). Waves are bounded, so far from the data the network is nearly linear.

    Parameters
    ----------
    event_shape : sequence of int
        Shape of one row.
    width, depth : int
        Hidden units, and the number of hidden layers; there are as many waves as units.
    scalar : bool
        One number a row instead of a field.
    outputs : int, optional
        So many numbers a row, shape (batch, outputs), instead of a field.

    Examples
    --------
    >>> import torch
    >>> WaveMLP((2,), width=16, scalar=True)(torch.zeros(5, 2)).shape
    torch.Size([5])
    """

    _frequencies = (0.3, 8.0)

    def __init__(
        self,
        event_shape: Sequence[int],
        *,
        width: int,
        depth: int = 2,
        scalar: bool = False,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        dim = math.prod(event_shape)
        low, high = self._frequencies
        direction = nn.functional.normalize(torch.randn(width, dim), dim=1)
        self.frequency = nn.Parameter(direction * low * (high / low) ** torch.rand(width, 1))
        self.phase = nn.Parameter(2 * math.pi * torch.rand(width))
        self.scalar, self.outputs = scalar, outputs
        self.layers = MLP((dim + width,), width=width, depth=depth, scalar=True).layers
        if not scalar:
            self.layers[-1] = Linear(width, outputs or dim)

    def lift(self, x: Tensor) -> _Waves:
        """The coordinates and waves of flat rows; see `energyscape.models.layered`."""
        graph = torch.is_grad_enabled() and (x.requires_grad or self.frequency.requires_grad)
        made = _Features.apply if graph else _features
        features, cosine = made(x, self.frequency, self.phase)
        return _Waves(x, features, cosine, self.frequency, self.phase)

    def forward(self, x: Tensor) -> Tensor:
        """A field, shape of x, or numbers of shape (batch,) or (batch, outputs)."""
        flat = x.flatten(1)
        waves = torch.sin(nn.functional.linear(flat, self.frequency, self.phase))
        out = self.layers(torch.cat([flat, waves], dim=1))
        if self.outputs is not None:
            return cast(Tensor, out)
        return cast(Tensor, out.squeeze(1) if self.scalar else out.reshape(x.shape))


def is_picture(settings: Mapping[str, Any], event_shape: Sequence[int]) -> bool:
    """Whether the setting ``network`` and the rows' shape ask for a network of pictures."""
    kind = settings["network"]
    if kind == "picture" and len(event_shape) != 3:
        # ScoreModel's `network` is its face, and `architecture` what others call network.
        name = "architecture" if "architecture" in settings else "network"
        raise ValueError(f"{name}='picture' needs pictures; a table takes {name}='mlp'")
    if kind != "auto":
        return bool(kind == "picture")
    return len(event_shape) == 3 and math.prod(event_shape[1:]) >= _SMALLEST_PICTURE

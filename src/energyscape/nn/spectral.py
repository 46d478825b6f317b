"""Spectral normalisation: layers whose largest singular value is held at 1 (1802.05957).

A layer's weight W (of a kernel, the matrix from its inputs to one output pixel) becomes
``W / sigma(W)``, sigma by one step of the power iteration at each training step. With smooth
activations of slope about 1 the layers before the last cannot make an energy steeper than the last
one's weights: gradients that chains walk on stay tame while the network learns (1903.08689 section
3.3).
"""

from __future__ import annotations

from typing import TypeVar

from torch import nn
from torch.nn.utils import parametrizations

__all__ = ["spectrally_normalised"]


Network = TypeVar("Network", bound=nn.Module)


def spectrally_normalised(network: Network) -> Network:
    """The network with every linear and convolutional layer but the last normalised, in place.

    The last layer is left free, since it sets the scale of the energy: with all of them bounded no
    density steeper than ``exp(-|x|)`` could be learned.

    Parameters
    ----------
    network : Module
        Its layers in the order they were made; the last of them gives the output.

    Raises
    ------
    ValueError
        If there are fewer than two such layers, so that nothing would be normalised.

    Examples
    --------
    >>> import torch
    >>> from energyscape.nn import MLP
    >>> net = spectrally_normalised(MLP((2,), width=16, scalar=True))
    >>> bool(torch.linalg.matrix_norm(net.layers[2].weight, 2) < 1.2)
    True
    """
    layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    if len(layers) < 2:
        raise ValueError(
            f"spectral normalisation leaves the last layer free, and {type(network).__name__} has "
            f"{len(layers)}: nothing would be normalised"
        )
    for layer in layers[:-1]:
        if not bool(layer.weight.any()):
            layer.reset_parameters()  # zero, as some blocks start, cannot be normalised
        parametrizations.spectral_norm(layer)
    return network

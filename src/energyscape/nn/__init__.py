"""Networks for tables and pictures, embeddings, and the moving average of weights.

Every network is called as ``network(x, c_noise=None, label=None)``.
"""

from __future__ import annotations

from energyscape.nn.ema import EMA
from energyscape.nn.embeddings import Conditioning, FourierEmbedding, LabelEmbedding, Waves
from energyscape.nn.energy import PictureEnergyNet
from energyscape.nn.grey import ByLevel, GreyNet
from energyscape.nn.mlp import MLP, ResidualMLP
from energyscape.nn.picture import PictureNet
from energyscape.nn.spectral import spectrally_normalised

__all__ = [
    "EMA",
    "MLP",
    "ByLevel",
    "Conditioning",
    "FourierEmbedding",
    "GreyNet",
    "LabelEmbedding",
    "PictureEnergyNet",
    "PictureNet",
    "ResidualMLP",
    "Waves",
    "spectrally_normalised",
]

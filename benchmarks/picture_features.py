"""Features of a small classifier, and two measures of generated pictures on them.

    python benchmarks/picture_features.py [--data mnist] [--cache FOLDER]

A convolutional network (two strided convolutions, one hidden layer) is trained to tell the classes
of the training pictures; a picture's features are that layer's activations. Generated and test
pictures are compared by

    Frechet distance     of the features' Gaussians, float64 (1706.08500 eq. 6 with this network in the
                         place of Inception: compare values within one benchmark, never with FID)
    two-sample accuracy  of a random forest on the features, 0.5 where it cannot tell

Both depend on how many pictures are compared: `Judge.reference` gives what as many test pictures
reach against the other test pictures. The trained network is kept under the cache (by default .cache
beside this file, which git ignores) under a name that holds a checksum of the data and the recipe.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from picture_sets import SETS, PictureSet, load_pictures
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from energyscape.metrics import Estimate, frechet_distance, two_sample_accuracy

__all__ = ["CACHE", "FeatureNet", "Judge", "Likeness", "feature_net"]

CACHE = Path(__file__).resolve().parent / ".cache"
_RECIPE = "v1: 4 epochs, batch 128, AdamW 2e-3 cosine, shifts by one pixel, seed 0"
_FEATURES = 64


class FeatureNet(nn.Module):
    """A classifier of grey or colour pictures of any size, with the features before its last layer.

    Parameters
    ----------
    shape : (channels, height, width)
    classes : int
    top : int
        The largest grey level.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, top: int) -> None:
        super().__init__()
        channels, height, width = shape
        self.top = top
        first = 2 if min(height, width) >= 16 else 1
        rows, columns = ((side + 2 * first - 1) // (2 * first) for side in (height, width))
        self.one = nn.Conv2d(channels, 32, 3, stride=first, padding=1)
        self.two = nn.Conv2d(32, 64, 3, stride=2, padding=1)
        self.hidden = nn.Linear(64 * rows * columns, _FEATURES)
        self.classes = nn.Linear(_FEATURES, classes)

    def features(self, pictures: Tensor) -> Tensor:
        """Activations of the last hidden layer, shape (n, 64), of float pictures 0..top."""
        h = F.silu(self.one(pictures * (2 / self.top) - 1))
        return F.silu(self.hidden(F.silu(self.two(h)).flatten(1)))

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits, shape (n, classes)."""
        return cast(Tensor, self.classes(self.features(pictures)))


def _tensor(pictures: np.ndarray) -> Tensor:
    """uint8 (n, H, W) or (n, H, W, C) as float (n, C, H, W)."""
    x = torch.from_numpy(np.ascontiguousarray(pictures)).float()
    return x[:, None] if x.ndim == 3 else x.movedim(3, 1)


def feature_net(data: PictureSet, cache: Path = CACHE) -> FeatureNet:
    """The classifier of a set, from the cache or trained (under a minute for MNIST on one core)."""
    x = _tensor(data.train[:1])
    shape = (x.shape[1], x.shape[2], x.shape[3])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = FeatureNet(shape, int(data.train_labels.max()) + 1, data.levels - 1)
    digest = hashlib.sha256(_RECIPE.encode())
    digest.update(np.ascontiguousarray(data.train).tobytes())
    digest.update(data.train_labels.astype(np.int64).tobytes())
    path = cache / f"features-{data.name}-{digest.hexdigest()[:12]}.safetensors"
    if path.is_file():
        net.load_state_dict(load_file(path))
        return net.eval()
    _train(net, _tensor(data.train), torch.from_numpy(data.train_labels))
    cache.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    save_file(net.state_dict(), aside)
    aside.replace(path)
    return net.eval()


def _train(net: FeatureNet, x: Tensor, y: Tensor) -> None:
    rng = torch.Generator().manual_seed(0)
    epochs = max(4, -(-60_000 // len(x)))  # small sets see as many pictures as one pass of MNIST
    batches = -(-len(x) // 128)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.02, fused=True)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    net.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=rng).split(128):
            down, right = torch.randint(-1, 2, (2,), generator=rng).tolist()
            shifted = torch.roll(x[rows], (down, right), (2, 3))
            loss = F.cross_entropy(net(shifted), y[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            rate.step()


class Likeness(NamedTuple):
    """How close generated pictures are to the test pictures, at the number of both."""

    frechet: float
    accuracy: Estimate
    n: int


def _likeness(real: np.ndarray, found: np.ndarray, seed: int, trees: int) -> Likeness:
    rng = np.random.default_rng(seed)
    accuracy = two_sample_accuracy(real, found, rng, repeats=1, num_trees=trees)
    return Likeness(frechet_distance(real, found), accuracy, len(found))


class Judge:
    """Compares pictures with the test pictures of a set on the features of its classifier.

    Parameters
    ----------
    data : PictureSet
    cache : path
        Where the classifier is kept.
    most : int
        The most pictures compared on each side.

    Attributes
    ----------
    test_accuracy : float
        Of the classifier.
    """

    def __init__(self, data: PictureSet, cache: Path = CACHE, most: int = 10_000) -> None:
        self.data = data
        self.net = feature_net(data, cache)
        self.test_accuracy = float((self.classify(data.test) == data.test_labels).mean())
        self._test = self.features(data.test[:most])

    def features(self, pictures: np.ndarray) -> np.ndarray:
        """float64 (n, 64) of uint8 pictures (n, H, W) or (n, H, W, C)."""
        with torch.no_grad():
            parts = [self.net.features(part).double() for part in _tensor(pictures).split(1000)]
        return torch.cat(parts).numpy()

    def classify(self, pictures: np.ndarray) -> np.ndarray:
        """The likeliest class of each picture."""
        with torch.no_grad():
            parts = [self.net(part).argmax(1) for part in _tensor(pictures).split(1000)]
        return torch.cat(parts).numpy()

    def compare(self, generated: np.ndarray, *, seed: int = 0, trees: int = 100) -> Likeness:
        """Frechet distance to all test pictures, and accuracy of a forest against as many of them.

        The Frechet distance needs more pictures than features to mean much.
        """
        return _likeness(self._test, self.features(generated), seed, trees)

    def reference(self, n: int, *, seed: int = 0) -> Likeness:
        """The same for n test pictures against the others: what a perfect model would reach.

        At most half of the test pictures are taken. Training pictures would not do: the classifier has
        seen them, and a forest tells their features from those of test pictures.
        """
        order = np.random.default_rng(seed).permutation(len(self._test))
        n = min(n, len(order) // 2)
        return _likeness(self._test[order[n:]], self._test[order[:n]], seed, trees=100)

    def classes(self, pictures: np.ndarray) -> np.ndarray:
        """Share of the pictures that the classifier puts into each class."""
        number = int(self.data.train_labels.max()) + 1
        return np.bincount(self.classify(pictures), minlength=number) / len(pictures)


def main() -> None:
    """Train or load a classifier, and say how good it is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", choices=SETS, default="mnist")
    parser.add_argument("--cache", type=Path, default=CACHE)
    arguments = parser.parse_args()
    began = time.process_time()
    judge = Judge(load_pictures(arguments.data), arguments.cache)
    seconds = time.process_time() - began
    print(f"{arguments.data}: test accuracy {judge.test_accuracy:.4f}, {seconds:.0f} CPU s")
    for n in (150, 500, 1000, 2000):
        if n <= len(judge.data.test) // 2:
            frechet, accuracy, _ = judge.reference(n)
            told = f"two-sample accuracy {accuracy.value:.3f} ± {accuracy.stderr:.3f}"
            print(
                f"{n:6} test pictures against the others: Frechet distance {frechet:8.3f}, {told}"
            )


if __name__ == "__main__":
    main()

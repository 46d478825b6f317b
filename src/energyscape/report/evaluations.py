"""The section on quality against the evaluations of the network that a sampler spends.

Samples are compared with held-out rows by the energy distance, in the units in which the model sees
them and divided by the data's mean distance from its mean. Held-out rows against one another, at the
same numbers, are what a perfect sampler would reach.
"""

from __future__ import annotations

import numpy as np

from energyscape.metrics import energy_distance
from energyscape.models import Denoiser
from energyscape.report import plots
from energyscape.report.sections import Item, Section, Table
from energyscape.report.subject import Subject, affordable

__all__ = ["evaluations"]

_SAMPLERS = ("heun", "dpmpp_2m", "ancestral")
_COUNTS = (5, 10, 20, 40)
_FEWEST, _MOST = 64, 400


def evaluations(subject: Subject, *, seed: int = 0, seconds: float = 8.0) -> Section | None:
    """Energy distance of samples by three samplers; None for models of a single level, and where
    fewer than 128 rows were held out."""
    est, data = subject.estimator, subject.data_x.reshape(len(subject.data_x), -1)
    known = getattr(est, "levels_", None) is not None and isinstance(est.model_, Denoiser)
    if not known or len(data) < 2 * _FEWEST:
        return None

    def draw(n: int, sampler: str = "dpmpp_2m", count: int = _COUNTS[0]) -> np.ndarray:
        steps = (count + 1) // 2 if sampler == "heun" else count
        x = est.sample_encoded(n, sampler=sampler, steps=steps, random_state=seed)
        return np.asarray(x.double().numpy()).reshape(n, -1)

    counts = [c for c in _COUNTS if c <= est.get_params().get("num_steps", c)]
    share = seconds * counts[0] / (len(_SAMPLERS) * sum(counts))
    n = affordable(draw, _FEWEST, min(_MOST, len(data) // 2), share)
    scale = float(np.linalg.norm(data - data.mean(0), axis=1).mean()) ** 0.5
    rng = np.random.default_rng(seed)
    order = [rng.permutation(len(data)) for _ in range(8)]
    floor = [energy_distance(data[o[:n]], data[o[n:]]) / scale for o in order]
    found = {
        sampler: [energy_distance(draw(n, sampler, count), data) / scale for count in counts]
        for sampler in _SAMPLERS
    }
    level = float(np.mean(floor))
    lines = {name: (counts, values) for name, values in found.items()}
    lines["Data"] = (counts, [level] * len(counts))
    alt = "Energy distance of samples to held-out rows against evaluations of the network"
    markup = plots.curves(
        [("Energy distance to held-out rows", lines)],
        "evaluations of the network a row",
        alt,
        log_x=True,
        log_y=(True,),
    )
    caption = (
        f"{n} samples each; Data: as many held-out rows against the others, "
        f"{level:.3g} ± {np.std(floor):.1g} over splits. Differences of that size mean nothing."
    )
    body = [[name, *[f"{value:.3g}" for value in values]] for name, values in found.items()]
    table = Table(["sampler", *[f"{count} evaluations" for count in counts]], body)
    return Section("Quality per evaluation", "", [Item(markup, caption)], [table])

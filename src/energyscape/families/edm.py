"""EDM: the modern default. Every level at once, measured data scale, Heun sampling, exact density.

    model      D = c_skip x + c_out F(c_in x, log(sigma)/4)      EDM preconditioning; names, steps,
               yes or no and blanks by the posterior over their values (`models.MixedDenoiser`)
    objective  E_sigma E || D(x_0 + sigma eps, sigma) - t ||^2 / c_out^2,  log sigma normal,
               t the mean of the rows of the batch that x_0 may have been (2302.00670)
    sampler    Heun on the probability-flow ODE

Source: Karras et al. 2206.00364, table 1 and algorithm 1; levels moved with the data's scale. The
columns of a table have detail far below that scale, spikes and steps, and stable targets leave less
to learn at high levels: of tables of a thousand rows and more, levels are drawn lower than of
pictures. In up to four dimensions a perceptron of the bare coordinates learns such detail slowly:
where there are rows enough to know it, the network also sees waves through them. Fewer rows are
learned by heart that way: 230 penguins in four columns lost half a nat of held-out log-density, 360
places in two gained 0.15. Pictures of many grey levels have most of their bits within a few of them:
on request noise of that size has a network of its own and a fifth of the rows of a step (`nn.grey`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from energyscape import schedules
from energyscape.data import PictureCodec, TableCodec
from energyscape.families import settings as s
from energyscape.families.bar import ProgressCallback, as_steps
from energyscape.families.denoising import DenoiserEstimator
from energyscape.families.family import Composition
from energyscape.families.labels import LABEL_DROPOUT
from energyscape.families.networks import FEW, field_network, is_picture
from energyscape.families.shares import match_shares, rows_to_match
from energyscape.models import EDMPreconditioning, FewValues, MixedDenoiser, PreconditionedDenoiser
from energyscape.nn import ByLevel, GreyNet
from energyscape.objectives import (
    DenoisingLoss,
    LevelLaw,
    WithLowLevels,
    edm_weight,
    min_snr_weight,
)

__all__ = ["EDM"]

#: Mean of log sigma in training, for data of scale 0.5: as published, and for tables of many rows.
_LOG_MEAN, _LOW_LOG_MEAN = -1.2, -2.0
#: So many. Held-out log-density of the lower mean less that of the other: pendigits (5,400 rows) 1.05,
#: annthyroid (5,700) 0.17, wine (1,140) 0.20, penguins (258) -2.6.
_MANY_ROWS = 1000
#: Grey levels narrower than this, on [-1, 1], may have a network of their own for noise of less than so
#: many of them (at six its error was a fifth above that of the large network); it takes a fifth of the
#: rows of a step, of so many where nothing is said.
_NARROW, _GREYS, _GREY_SHARE, _GREY_ROWS = 0.02, 4.0, 0.2, 80
#: Rows that it takes, times 2 to the power of the dimension.
_FEW_ROWS = 80


class EDM(DenoiserEstimator):
    """A diffusion model over all noise levels at once: the default, for sampling and for density.

    Parameters are described by ``energyscape models``.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> model = EDM(max_steps=5, random_state=0).fit(X)
    >>> model.sample(3).shape, model.score_samples(X[:4]).shape
    ((3, 2), (4,))
    """

    purpose = "the default: good samples in few steps, and an exact log-density"
    default_sampler = "heun"
    default_steps = 24

    def __init__(
        self,
        max_steps: s.MaxSteps = 4000,
        batch_size: s.RowsAStep = None,
        learning_rate: s.LearningRate = 2e-3,
        weight_decay: s.WeightDecay = 0.0,
        ema_decay: s.EMADecay = 0.998,
        weight: Annotated[
            Literal["edm", "min_snr"],
            Field(description="of the loss over levels: 1/c_out^2, or min(SNR, 5)"),
        ] = "edm",
        label: s.Label = None,
        clip: s.Clip = "auto",
        network: s.Network = "auto",
        grey_network: Annotated[
            bool,
            Field(
                description="pictures: a network of its own for noise of a few grey levels; "
                "log-densities of plain drawings gain, short training of photographs loses"
            ),
        ] = False,
        width: s.Width = None,
        blocks: s.Blocks = None,
        dropout: s.Dropout = 0.0,
        validation_fraction: s.ValidationFraction = 0.1,
        calibration_fraction: s.CalibrationFraction = 0.1,
        patience: s.Patience = None,
        false_alarm_rate: s.FalseAlarmRate = 0.05,
        time_limit: s.TimeLimit = None,
        random_state: s.RandomState = None,
        device: s.Device = "auto",
        precision: s.Precision = "auto",
        verbose: s.Verbose = False,
    ) -> None:
        s.keep(self, locals())

    def _measure(self, x: Tensor) -> dict[str, Any]:
        dim = x[0].numel()
        few = dim <= FEW and len(x) >= _FEW_ROWS * 2**dim
        low = few or (x.ndim == 2 and len(x) >= _MANY_ROWS)
        log_mean = _LOW_LOG_MEAN if low else _LOG_MEAN
        facts = super()._measure(x) | {"few": few, "log_mean": log_mean}
        if isinstance(self.codec_, TableCodec):
            rows = x.numpy()
            facts["columns"] = [atoms.facts(start, rows) for start, atoms in self.codec_.atoms()]
        if self.get_params()["grey_network"]:
            pictures = is_picture(self.get_params(), x.shape[1:])
            if (
                not (pictures and isinstance(self.codec_, PictureCodec))
                or self.codec_.cell > _NARROW
            ):
                raise ValueError(
                    "grey_network=True is for pictures of 256 grey levels and the network of pictures"
                )
            facts["grey"] = True
        return facts

    def _habits(self) -> Mapping[str, Any]:
        own = self.facts_.get("grey") and self.get_params()["batch_size"] is None
        return {**super()._habits(), **({"batch_size": _GREY_ROWS} if own else {})}

    def _adjust(self, progress: ProgressCallback | None) -> None:
        if not isinstance(self.model_, MixedDenoiser):
            return
        rows = rows_to_match(int(self.info_["steps"]) * int(self._habits()["batch_size"]))
        if not rows:
            return
        seed = self._seed(None)
        match_shares(
            self.model_,
            cast(TableCodec, self.codec_).atoms(),
            [column["share"] for column in self.facts_["columns"]],
            lambda k: self.sample_encoded(rows, random_state=seed + 7919 * (k + 1)),
            progress=as_steps(progress, "shares of values"),
        )

    def _schedule(self, facts: Mapping[str, Any]) -> schedules.EDM:
        # Far below a picture's grey level nothing is left to resolve but the dequantisation noise.
        scale = facts["sigma_data"]
        low = 0.004 * scale if facts["cell"] is None else facts["cell"] / 6
        # Runs that kept no mean have the published one, or saw waves.
        kept = _LOW_LOG_MEAN if facts.get("few") else _LOG_MEAN
        log_mean = facts.get("log_mean", kept)
        return schedules.EDM.for_data(scale, sigma_min=low / scale / 2, log_mean=log_mean)

    def _walk_sampler(self) -> str:
        """Churn corrects a network's errors on pictures; on a Gaussian it inflates the variance."""
        return self.default_sampler if self.facts_["cell"] is None else "sde_heun"

    def _build(self, facts: Mapping[str, Any]) -> nn.Module:
        settings, waves = self.get_params(), bool(facts.get("few"))
        shape, preconditioning = facts["event_shape"], EDMPreconditioning(facts["sigma_data"])
        columns = [FewValues(**column) for column in facts.get("columns", ())]
        if not columns:
            network = field_network(settings, facts, waves=waves)
            if facts.get("grey"):
                scale, cell = facts["sigma_data"], facts["cell"]
                border = preconditioning.coefficients(torch.tensor(_GREYS * cell)).c_noise
                network = ByLevel(GreyNet(shape, cell=cell / scale), network, float(border))
            return PreconditionedDenoiser(network, preconditioning)
        outputs = MixedDenoiser.outputs(shape[0], columns)
        network = field_network(settings, facts, waves=waves, outputs=outputs)
        return MixedDenoiser(network, preconditioning, shape[0], columns)

    def _compose(self, model: nn.Module, facts: Mapping[str, Any]) -> Composition:
        scale = facts["sigma_data"]
        named = self.get_params()["weight"]
        weight = edm_weight(scale) if named == "edm" else min_snr_weight(sigma_data=scale)
        hidden = LABEL_DROPOUT if "classes" in facts else 0.0
        schedule = self._schedule(facts)
        levels: LevelLaw = schedule
        if facts.get("grey"):
            levels = WithLowLevels(
                schedule, schedule.sigma_min, _GREYS * facts["cell"], _GREY_SHARE
            )
        loss = DenoisingLoss(levels, weight, hidden)
        return Composition(model, replace(loss, stable=True), loss)

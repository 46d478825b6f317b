"""DDPM: the faithful discrete chain.

    model      D = c_skip x + c_out F(x / sqrt(1 + sigma^2), log sigma)   F predicts eps, x_0 or v
    objective  E_i E || target - F ||^2         the simple loss, or the variational bound
    sampler    ancestral: x_{i-1} ~ N(mu(x_i), variance), all steps

The variance is fixed at one of its bounds, or learned between them by a second, narrower network,
which the bound trains. The bound is also a criterion: ``bound(X)`` is below the log-density of every
row. A chain whose end still carries signal is walked from the data's own moments there, not N(0, I).

Source: Ho et al. 2006.11239, algorithms 1 and 2; learned variance and respaced chains 2102.09672;
v 2202.00512; min-SNR weights 2303.09556.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from energyscape import schedules
from energyscape.data import PictureCodec
from energyscape.diffusion import (
    BoundLoss,
    Chain,
    Clip,
    Decoder,
    Guided,
    HybridLoss,
    LearnedRange,
    Variance,
    bound_by_step,
    cell_log_prob,
    variational_bound,
)
from energyscape.families import settings as s
from energyscape.families.bar import ProgressCallback, as_steps
from energyscape.families.denoising import DenoiserEstimator
from energyscape.families.family import Composition
from energyscape.families.judging import Values
from energyscape.families.labels import LABEL_DROPOUT, HiddenLabels
from energyscape.families.networks import field_network, is_picture
from energyscape.models import (
    Denoiser,
    EpsPreconditioning,
    FunctionDenoiser,
    PreconditionedDenoiser,
    Preconditioning,
    VPreconditioning,
    X0Preconditioning,
)
from energyscape.objectives import DenoisingLoss, min_snr_weight, natural_weight

__all__ = ["DDPM", "BoundTerms"]

_PRECONDITIONINGS: dict[str, Callable[[], Preconditioning]] = {
    "eps": EpsPreconditioning,
    "v": VPreconditioning,
    "x0": X0Preconditioning,
}
_WALK_STEPS = 32
_PIECE = 1 << 19  # numbers that the bound is worked on at once

#: The last step of the bound; "auto": discretised where cells are narrow beside the first noise.
LastStep: TypeAlias = Literal["auto", "gaussian", "discretised"]


class BoundTerms(NamedTuple):
    """The bound on ``-log p`` of rows and its parts in nats, arrays of shape (n,) and (n, S).

    `steps` are the indices evaluated, `per_step` their terms and `reference` those of the best answer
    that knows mean and variance of each coordinate alone, at the smaller variance of the reverse where
    the model's is learned. `decoder` is minus the log of a density, or where it is `discretised` of the
    probability of a picture's levels. `value` is in original units.
    """

    num_steps: int
    steps: np.ndarray
    per_step: np.ndarray
    reference: np.ndarray
    terminal: np.ndarray
    transitions: np.ndarray
    decoder: np.ndarray
    log_abs_det: np.ndarray
    discretised: bool

    @property
    def value(self) -> np.ndarray:
        """The bound on ``-log p``."""
        return self.terminal + self.transitions + self.decoder - self.log_abs_det


class DDPM(DenoiserEstimator):
    """A denoising diffusion chain of 1,000 steps, trained by the simple loss on eps.

    Parameters are described by ``energyscape models``.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> DDPM(max_steps=5, random_state=0).fit(X).sample(3, steps=10).shape
    (3, 2)
    """

    purpose = "the classic 1,000-step chain: a variational bound, and slow but sturdy samples"
    default_sampler = "ancestral"

    def __init__(
        self,
        max_steps: s.MaxSteps = 4000,
        batch_size: s.RowsAStep = None,
        learning_rate: s.LearningRate = 1e-3,
        weight_decay: s.WeightDecay = 0.0,
        ema_decay: s.EMADecay = 0.998,
        schedule: Annotated[
            Literal["linear", "scaled-linear", "cosine"], Field(description="how beta grows")
        ] = "linear",
        num_steps: Annotated[int, Field(ge=25, description="steps of the chain")] = 1000,
        parametrisation: Annotated[
            Literal["eps", "x0", "v"], Field(description="what the network predicts")
        ] = "eps",
        loss: Annotated[
            Literal["simple", "min_snr", "bound", "hybrid"],
            Field(description="error of the prediction, min(SNR, 5) weights, the bound, or both"),
        ] = "simple",
        variance: Annotated[
            Literal["fixed_small", "fixed_large", "learned"],
            Field(description="of the reverse steps; learned: with loss hybrid or bound"),
        ] = "fixed_small",
        label: s.Label = None,
        clip: s.Clip = "auto",
        network: s.Network = "auto",
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

    @property
    def chain_(self) -> Chain:
        """The chain's table."""
        return self._chain()

    def _chain(self) -> Chain:
        settings = self.get_params()
        steps = settings["num_steps"]
        if settings["schedule"] == "linear":
            return Chain.linear(steps)
        if settings["schedule"] == "scaled-linear":
            return Chain.scaled_linear(steps)
        return Chain.cosine(steps)

    def _schedule(self, facts: Mapping[str, Any]) -> schedules.Tabulated:
        return schedules.Tabulated(self._chain().sigmas, variance_preserving=True)

    @property
    def _variance(self) -> Variance:
        named = self.get_params()["variance"]
        return cast(Variance, "learned_range" if named == "learned" else named)

    @property
    def _bound_clip(self) -> Clip | None:
        # Dynamic clipping is for guided samples: it moves every pixel, and may cost more than it saves.
        return None if self._clip(None) is None else (-1.0, 1.0)

    def _measure(self, x: Tensor) -> dict[str, Any]:
        settings = self.get_params()
        learned, loss = settings["variance"] == "learned", settings["loss"]
        if learned and loss not in ("hybrid", "bound"):
            raise ValueError(
                f"variance='learned' is trained by the bound: give loss='hybrid', not {loss!r}"
            )
        if loss == "hybrid" and not learned:
            raise ValueError("loss='hybrid' trains a variance: give variance='learned'")
        return super()._measure(x)

    def _build(self, facts: Mapping[str, Any]) -> nn.Module:
        settings = self.get_params()
        network = field_network(settings, facts)
        preconditioning = _PRECONDITIONINGS[settings["parametrisation"]]()
        denoiser = PreconditionedDenoiser(network, preconditioning)
        if settings["variance"] != "learned":
            return denoiser
        pictures = is_picture(settings, facts["event_shape"])
        usual = 40 if pictures and facts.get("picture_network", 1) > 1 else 128
        narrow = settings | {"width": max((settings["width"] or usual) // 2, 8), "blocks": 1}
        return LearnedRange(denoiser, field_network(narrow, facts))

    def _compose(self, model: nn.Module, facts: Mapping[str, Any]) -> Composition:
        settings, chain = self.get_params(), self._chain()
        named, labelled = settings["loss"], "classes" in facts
        if named in ("bound", "hybrid"):
            objective = (
                BoundLoss(chain, self._variance, importance=True)
                if named == "bound"
                else HybridLoss(chain)
            )
            return Composition(model, HiddenLabels(objective) if labelled else objective)
        weight = (
            natural_weight(_PRECONDITIONINGS[settings["parametrisation"]]())
            if named == "simple"
            else min_snr_weight(sigma_data=facts["sigma_data"])
        )
        hidden = LABEL_DROPOUT if labelled else 0.0
        return Composition(model, DenoisingLoss(schedules.Ladder(chain.sigmas), weight, hidden))

    def bound(
        self,
        X: Any,
        *,
        num_steps: int | None = None,
        decoder: LastStep = "auto",
        random_state: int | None = None,
    ) -> Values:
        """A lower bound of the log-density of each row, nats, original units.

        Parameters
        ----------
        X : array, DataFrame, pictures or Dataset
        num_steps : int, optional
            Steps of the chain drawn for each row by importance, at least 2; all of them by default.
        decoder : {"auto", "gaussian", "discretised"}
            The last step. "gaussian" gives a density, and of pictures that of levels with noise drawn
            within each. "discretised", for pictures, gives the probability of their levels; it pays
            for finding the middle of each level, and so is used by "auto" where levels are no wider
            than twice the first noise: of 256 grey levels, not of 17.
        random_state : int, optional

        Returns
        -------
        Values
            Of kind "lower_bound"; the standard error is that of the noise drawn, not the gap. The bound
            is that of the whole chain from N(0, I), told no class and, of pictures and unless
            ``clip="none"``, with estimates of x_0 clipped to their range.

        Raises
        ------
        ValueError
            If a table's last step is to be discretised.

        References
        ----------
        2006.11239 equations 5 and 13.

        Examples
        --------
        >>> import numpy as np
        >>> X = np.random.default_rng(0).normal(size=(200, 2))
        >>> DDPM(max_steps=5, random_state=0).fit(X).bound(X[:3], num_steps=4).kind
        'lower_bound'
        """
        seed = self._seed(random_state)
        x, inner, decoder_of = self._for_bound(X, seed, decoder)
        piece = max(_PIECE // max(x[:1].numel(), 1), 1)

        def bound(dtype: torch.dtype) -> tuple[np.ndarray, np.ndarray]:
            rng = torch.Generator(x.device).manual_seed(seed + 15485863)
            found = [
                variational_bound(
                    self._chain(),
                    self._scorer(dtype),
                    x[rows],
                    rng,
                    num_steps=num_steps,
                    decoder=decoder_of(rows),
                    variance=self._variance,
                    clip=self._bound_clip,
                )
                for first in range(0, max(len(x), 1), piece)
                for rows in [slice(first, first + piece)]
            ]
            value = torch.cat([part.value for part in found]).cpu().numpy()
            return inner - value, torch.cat([part.stderr for part in found]).cpu().numpy()

        value, stderr = bound(self._density_dtype())
        wild = ~(np.isfinite(value) & np.isfinite(stderr))
        if wild.any():  # beyond single precision; the noise is the same again
            again = bound(torch.float64)
            value, stderr = np.where(wild, again[0], value), np.where(wild, again[1], stderr)
        return Values(value, "lower_bound", stderr)

    def _for_bound(
        self, X: Any, seed: int, decoder: LastStep
    ) -> tuple[Tensor, np.ndarray, Callable[[slice], Decoder]]:
        """Encoded rows, what their units add to a log-density, and the last step's decoder of some."""
        if decoder not in ("auto", "gaussian", "discretised"):
            raise ValueError(f"decoder is 'auto', 'gaussian' or 'discretised', not {decoder!r}")
        codec, data = self.codec_, self._conform(X)
        device = next(self.model_.parameters()).device
        narrow = False
        if isinstance(codec, PictureCodec):
            narrow = float(np.diff(codec.edges).max()) <= 2 * float(self._chain().sigmas[0])
        if decoder == "gaussian" or (decoder == "auto" and not narrow):
            encoded = codec.encode(data, np.random.default_rng(seed))
            return (
                torch.from_numpy(encoded.x).to(device),
                encoded.log_abs_det,
                lambda rows: "gaussian",
            )
        if not isinstance(codec, PictureCodec):
            raise ValueError("decoder='discretised' is for pictures, whose values are whole levels")
        x = codec.encode(data, None).x
        lower, upper = (torch.from_numpy(end).to(device) for end in codec.cells(x))

        def of(rows: slice) -> Decoder:
            return lambda x0, reverse: cell_log_prob(lower[rows], upper[rows], reverse)

        return torch.from_numpy(x).to(device), np.zeros(len(x)), of

    def _bound_of_row(self, x: Tensor) -> Tensor:
        """The bound of encoded rows before the codec's Jacobian, (n,), all noised alike."""
        rng = torch.Generator(x.device).manual_seed(0)
        found = bound_by_step(
            self._chain(),
            self._scorer(self._scoring_dtype()),
            x,
            rng,
            shared_noise=True,
            variance=self._variance,
            clip=self._bound_clip,
        )
        return -(found.terminal + found.transitions + found.decoder)

    def bound_terms(
        self,
        X: Any,
        *,
        most_steps: int = 120,
        decoder: LastStep = "auto",
        random_state: int | None = None,
    ) -> BoundTerms:
        """The bound taken apart: the chain's end, its steps and the last one.

        Parameters
        ----------
        X : array, DataFrame, pictures or Dataset
        most_steps : int
            The most steps evaluated, as in `bound_by_step`; the sum of all is estimated from them
            without bias.
        decoder : {"auto", "gaussian", "discretised"}
            As in `bound`.
        random_state : int, optional

        References
        ----------
        2006.11239 equation 5; drawn over the steps as in figure 2 of 2102.09672.

        Examples
        --------
        >>> import numpy as np
        >>> X = np.random.default_rng(0).normal(size=(200, 2))
        >>> terms = DDPM(max_steps=5, random_state=0).fit(X).bound_terms(X[:3], most_steps=20)
        >>> terms.per_step.shape == (3, len(terms.steps)), terms.value.shape
        (True, (3,))
        """
        x, inner, decoder_of = self._for_bound(X, self._seed(random_state), decoder)
        last = decoder_of(slice(None))
        model, chain, device = self._scorer(self._scoring_dtype()), self._chain(), x.device
        mean, variance = self._moments(device)

        def alone(x_t: Tensor, sigma: float | Tensor) -> Tensor:
            return mean + variance / (variance + sigma**2) * (x_t - mean)

        fixed: Variance = self._variance
        if fixed == "learned_range":
            fixed = "fixed_small"
        both = []
        settings: dict[str, Any] = {"most": most_steps, "clip": self._bound_clip, "decoder": last}
        for judged, kind in ((model, self._variance), (FunctionDenoiser(alone), fixed)):
            rng = torch.Generator(device).manual_seed(self._seed(random_state) + 15485863)
            both.append(bound_by_step(chain, judged, x, rng, variance=kind, **settings))
        found, reference = both
        return BoundTerms(
            chain.num_steps,
            found.steps.numpy(),
            found.per_step.cpu().numpy(),
            reference.per_step.cpu().numpy(),
            found.terminal.cpu().numpy(),
            found.transitions.cpu().numpy(),
            found.decoder.cpu().numpy(),
            inner,
            callable(last),
        )

    def _walk_steps(self) -> int:
        return _WALK_STEPS

    def _denoiser(self, classes: Tensor | None, guidance: float | None) -> Denoiser:
        denoiser = super()._denoiser(classes, guidance)
        learned = self.model_
        if isinstance(learned, LearnedRange) and isinstance(denoiser, Guided):
            denoiser.denoiser = learned.denoiser
            return LearnedRange(denoiser, learned.range_network)
        return denoiser

    def _sample_encoded(
        self,
        n: int,
        rng: torch.Generator,
        *,
        steps: int | None,
        sampler: str | None,
        progress: ProgressCallback | None,
        classes: Tensor | None = None,
        guidance: float | None = None,
    ) -> Tensor:
        if sampler not in (None, "ancestral"):
            return super()._sample_encoded(
                n,
                rng,
                steps=steps,
                sampler=sampler,
                progress=progress,
                classes=classes,
                guidance=guidance,
            )
        chain = self._chain()
        if steps is not None:
            if steps > chain.num_steps:
                raise ValueError(f"the chain has {chain.num_steps} steps, {steps} were asked for")
            chain = chain.respaced(steps)
        guided = guidance is not None and guidance != 1
        label = None if classes is None else classes.to(next(self.model_.parameters()).device)
        return chain.ancestral(
            self._denoiser(classes, guidance) if guided else self.model_,
            self._chain_start(chain, n, rng),
            rng,
            label=label,
            variance=self._variance,
            clip=self._clip(guidance),
            progress=as_steps(progress, "sampling"),
        )

    def _chain_start(self, chain: Chain, n: int, rng: torch.Generator) -> Tensor | tuple[int, ...]:
        """The shape of a state of N(0, I), or states with the signal that the chain leaves."""
        if chain.ends_in_noise:
            return (n, *self.facts_["event_shape"])
        sigma = float(chain.sigmas[-1])
        return self._start(n, sigma, rng) / (1 + sigma**2) ** 0.5

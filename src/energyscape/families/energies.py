"""What the energy families share: chains for samples, a normalised density where it can be trusted.

The model is one energy at one small noise level, ``p = exp(-E)/Z``. Ratios need no Z. After training

    chains   settle on the averaged weights; some are kept as starts of samples, some are judged
    log Z    in one and two dimensions on a grid; in more by annealed importance sampling from a
             Gaussian fitted to the training rows, upwards from its draws and downwards from the
             settled chains

and the log-density is ``-E - log Z`` where both sides agree. Where they do not it stays unnormalised,
and says so.

Known cells are held by the same walk from a Gaussian upwards, on the slice of the density that goes
through them: 32 weighted particles a row, of which one is drawn.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from energyscape.families.bar import ProgressCallback, as_steps
from energyscape.families.base import DensityEstimator
from energyscape.families.judging import Values
from energyscape.families.labels import class_codes
from energyscape.families.log_z import Verdict, broad_base, normalised
from energyscape.families.networks import PerClass
from energyscape.families.sampled import Sampled, of_one_class
from energyscape.families.walks import SAMPLERS, settled, settled_given, walker, warmed
from energyscape.mcmc import (
    MALA,
    Excerpt,
    GaussianBase,
    Kernel,
    LogZ,
    ParallelTempering,
    run_chains,
)
from energyscape.models import ClassEnergy, ConfinedEnergy, Energy, NetworkEnergy

__all__ = ["EnergyEstimator", "network_energy"]

_CONFINEMENT = 3.0
_NORMALISED_DIMENSIONS = 256
_ROWS = 4096
_PARTICLES = 32
_BETAS = (1.0, 0.5, 0.25, 0.1)
_PARTICLE_DIMENSIONS = 128


def _in_rounds(size: int, n: int, rng: torch.Generator) -> Tensor:
    """`n` indices below `size` in random order, none more than once oftener than another."""
    order = torch.randperm(size, generator=rng, device=rng.device)
    return order.repeat(-(-n // size))[:n]


def network_energy(network: nn.Module) -> Energy:
    """The energy that a network gives, of each class where it knows some."""
    return ClassEnergy(network) if isinstance(network, PerClass) else NetworkEnergy(network)


class EnergyEstimator(DensityEstimator):
    """A family whose model is an `Energy` of the encoded rows.

    Attributes
    ----------
    sampling_ : dict
        How the last samples came about: how many chains walked how many steps from where, the share of
        moves accepted, divergences, R-hat and effective draws (of at most 64 chains, 100 draws and 16
        coordinates, with the energy; of one class where rows have several), and a verdict in words.
        With values given, of the last batch that was drawn.
    """

    default_steps = 200

    # -- building ------------------------------------------------------------------------------

    def _measure(self, x: Tensor) -> dict[str, Any]:
        self._training_rows = x[:_ROWS].double()
        flat = x.flatten(1)
        spread = flat.var(0, unbiased=False)
        return {
            "scale": max(float(spread.mean().sqrt()), 1e-3),
            "mean": flat.mean(0).tolist(),
            "variance": spread.tolist(),
        }

    def _noise_level(self) -> float:
        """Of the density that is learned, in units of the data scale."""
        given: float | None = self.get_params().get("noise_level")
        return 0.0 if given is None else given

    @property
    def blur_(self) -> float:
        """Standard deviation of the noise on the rows whose density was learned, in encoded units."""
        return self._noise_level() * float(self.facts_["scale"])

    def _rows(self) -> Tensor:
        """Some training rows, while the objective is composed."""
        return self._training_rows

    def _confined(self, network: nn.Module, facts: Mapping[str, Any]) -> Energy:
        centre = torch.tensor(facts["mean"], dtype=torch.float32).reshape(facts["event_shape"])
        return ConfinedEnergy(network_energy(network), _CONFINEMENT * facts["scale"], centre)

    def _base(self, device: torch.device) -> GaussianBase:
        """A Gaussian somewhat wider than the data, coordinate by coordinate."""
        facts = self.facts_
        mean = torch.tensor(facts["mean"], device=device).reshape(facts["event_shape"])
        floor = (0.05 * facts["scale"]) ** 2
        variance = torch.tensor(facts["variance"], device=device).clamp(min=floor)
        return GaussianBase(mean, torch.diag(1.5**2 * variance))

    # -- after training ------------------------------------------------------------------------

    def _after_training(self, x: Tensor, aux: dict[str, Tensor] | None) -> dict[str, np.ndarray]:
        energy = cast(Energy, self.model_)
        own = next(energy.parameters())
        rng = torch.Generator(own.device).manual_seed(int(self.info_["seed"]) + 15485863)
        rows = self._training_rows.to(own.device, own.dtype)
        dim = rows[0].numel()
        # No more effort than training itself took.
        moves = max(5, min(200 if dim <= 64 else 100, int(self.info_["steps"])))
        count = 2048 if dim <= 64 else 512 if dim <= 1024 else 128
        kernel = self._kernel("mala")
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            kept = self._settle(kernel, rows, aux, count, moves, rng)
            self._judge(kernel, kept, rows, moves, rng)
        self.info_["notes"] += [str(w.message) for w in told]
        if self.get_params()["normalise"]:
            self._normalise(rows, kept, rng)
        del self._training_rows
        return {"chains": kept.cpu().numpy()}

    def _kernel(self, name: str) -> Kernel:
        """The kernel called `name` for the energy that was fitted."""
        return walker(name, self.facts_["scale"], math.prod(self.facts_["event_shape"]))

    def _finish(self, x: Tensor, classes: Tensor | None = None) -> Tensor:
        """What is shown of chains on the energy: where they ended."""
        return x

    def _settle(
        self,
        kernel: Kernel,
        rows: Tensor,
        aux: dict[str, Tensor] | None,
        count: int,
        moves: int,
        rng: torch.Generator,
    ) -> Tensor:
        """Draws of the averaged weights: from the replay buffer, or from a Gaussian upwards."""
        target = cast(Energy, self.model_).at(None)
        if aux is not None and "buffer" in aux:
            # A buffer smaller than what is wanted is taken several times over; the moves part them.
            start = aux["buffer"][_in_rounds(len(aux["buffer"]), count, rng)].to(rows)
            return run_chains(kernel, target, start, moves, rng=rng, keep="last").x
        short = self._short_run()
        if short is not None:
            return run_chains(
                kernel, target, self._round(count, rng), short, rng=rng, keep="last"
            ).x
        return settled(target, broad_base(rows), kernel, count, moves, rng)

    def _short_run(self) -> int | None:
        """Moves from a Gaussian that training took for draws; None where draws are of the density.

        An energy trained by short runs is right where these lead, and free everywhere else
        (1904.09770): brought down from a broad base all draws of a class ended in one well, four
        deviations from its rows.
        """
        return None

    def _round(self, n: int, rng: torch.Generator) -> Tensor:
        """Draws of the Gaussian with the rows' means and deviations, where short runs start."""
        facts, own = self.facts_, next(self.model_.parameters())
        mean, variance = (torch.tensor(facts[k]).to(own) for k in ("mean", "variance"))
        eps = torch.randn(n, len(mean), generator=rng, dtype=own.dtype, device=own.device)
        return (mean + variance.sqrt() * eps).reshape(n, *facts["event_shape"])

    def _judge(
        self, kernel: Kernel, kept: Tensor, rows: Tensor, moves: int, rng: torch.Generator
    ) -> None:
        """Diagnostics of a short run of some chains, for the record and the report."""
        energy = cast(Energy, self.model_)
        some = kept[:32]
        chains = run_chains(kernel, energy.at(None), some, moves, rng=rng)
        found = chains.diagnostics
        with torch.no_grad():
            energies = {
                "energy_data": float(energy(rows).double().mean()),
                "energy_chains": float(energy(kept).double().mean()),
            }
        numbers = {
            "rhat": found.rhat,
            "ess_bulk": found.ess_bulk,
            "ess_tail": found.ess_tail,
            "acceptance": found.acceptance,
            "divergences": found.divergences,
        }
        self.info_["chains"] = {
            "chains": len(some),
            "steps": moves,
            **{k: v if v is None or math.isfinite(v) else None for k, v in numbers.items()},
            **energies,
            "verdict": found.verdict,
        }

    def _normalise(self, rows: Tensor, samples: Tensor, rng: torch.Generator) -> None:
        """log Z from both sides; what came of it is noted either way."""
        dim = rows[0].numel()
        if dim > _NORMALISED_DIMENSIONS:
            self._note(f"log Z was not estimated: {dim} dimensions are too many for its bounds")
            return
        try:
            verdict = normalised(cast(Energy, self.model_).at(None), rows, samples, rng)
        except ValueError as error:
            self._note(f"log Z could not be estimated: {error}")
            return
        self._keep_log_z(verdict)

    def _keep_log_z(self, verdict: Verdict) -> None:
        found = verdict.found
        record = {
            "estimate": found.estimate,
            "stderr": found.stderr,
            "lower": found.lower,
            "upper": found.upper,
        }
        if isinstance(found, LogZ):
            record |= {"gap": found.gap, "ess": found.ess, "rungs": len(found.betas)}
        else:
            record |= {"points": found.points}
        record["trusted"] = verdict.trusted
        self.info_["log_z"] = {
            "kind": verdict.kind,
            **{k: v if v is not None and math.isfinite(v) else None for k, v in record.items()},
        }
        if verdict.trusted:
            self.facts_ |= {
                "log_z": found.estimate,
                "log_z_stderr": found.stderr,
                "log_z_kind": verdict.kind,
            }
            if verdict.reason:
                self._note(f"{verdict.reason}; train longer")
            return
        self._note(
            f"log_prob is unnormalised: {verdict.reason}; train longer, or take the family edm for "
            "densities"
        )

    def _note(self, text: str) -> None:
        self.info_["notes"].append(text)

    # -- faces ---------------------------------------------------------------------------------

    @property
    def sampling_(self) -> dict[str, Any]:
        """How the last samples came about; see the attributes of the class."""
        if isinstance(self._sampling, Sampled):
            self._sampling = self._sampling.told()
        if self._sampling is None:
            raise AttributeError("sampling_ tells of samples: call sample first")
        return self._sampling

    def _origin(self, classes: Tensor | None) -> tuple[str, str]:
        """Where sampling chains start, and why R-hat is not asked of them, where it is not."""
        if self._short_run() is not None:
            return "short runs from a Gaussian, as in training", (
                "training took short runs for draws, and the energy is right where these lead alone: "
                "R-hat is not asked"
            )
        if classes is not None:
            return "draws of each class, brought up from a Gaussian", ""
        return "the chains that settled after training", ""

    def _classes(
        self, n: int, label: Any, guidance: float | None, rng: torch.Generator
    ) -> Tensor | None:
        """The classes asked for; without them samples are of all classes together."""
        if label is None or guidance is not None or "classes" not in self.facts_:
            if guidance is not None and "classes" in self.facts_:
                raise ValueError(
                    "guidance is for edm, ddpm and ncsn; an energy with classes takes label alone"
                )
            return super()._classes(n, label, guidance, rng)
        return class_codes(label, n, self.facts_)

    def _given(self, classes: Tensor | None) -> Energy:
        """The fitted energy, of the class of each row where there are some."""
        energy = cast(Energy, self.model_)
        if classes is None:
            return energy
        given: Energy = energy.given(classes.to(next(energy.parameters()).device))  # type: ignore[operator]
        return given

    def _class_starts(self, classes: Tensor, kernel: Kernel, rng: torch.Generator) -> Tensor:
        """Draws of each row's class, class by class from a Gaussian upwards."""
        short = self._short_run()
        if short is not None:
            start, target = self._round(len(classes), rng), self._given(classes).at(None)
            return run_chains(kernel, target, start, short, rng=rng, keep="last").x
        device = next(self.model_.parameters()).device
        pool = torch.from_numpy(np.ascontiguousarray(self.calibration_["chains"])).to(device)
        start, base = pool.new_empty(len(classes), *pool.shape[1:]), broad_base(pool)
        for one in classes.unique():
            rows = torch.nonzero(classes == one)[:, 0].to(device)
            target = self._given(one).at(None)
            # Weights are shared out among many, of which few may be wanted.
            drawn = settled(target, base, kernel, max(256, len(rows)), self.default_steps, rng)
            start[rows] = drawn[
                torch.randperm(len(drawn), generator=rng, device=device)[: len(rows)]
            ]
        return start

    def _starts(self, n: int, device: torch.device, rng: torch.Generator) -> Tensor:
        """Starts of sampling chains: settled chains, each as often as any other."""
        pool = torch.from_numpy(np.ascontiguousarray(self.calibration_["chains"])).to(device)
        return pool[_in_rounds(len(pool), n, rng)]

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
        name, count = sampler or "mala", steps or self.default_steps
        device = next(self.model_.parameters()).device
        target = self._given(classes).at(None)
        if classes is None:
            start = self._starts(n, device, rng)
        else:
            start = self._class_starts(classes, self._kernel("mala"), rng)
        warmup = 0
        if name == "tempering":
            step = 0.01 * self.facts_["scale"] ** 2
            kernel: Kernel = ParallelTempering(MALA(step), _BETAS)
            if classes is not None:
                # Copies at every temperature are rows of one batch, the coldest first.
                target = self._given(classes.repeat(len(_BETAS))).at(None)
            warmup = count // 2
        elif name in SAMPLERS:
            some = self._given(None if classes is None else classes[:256]).at(None)
            kernel = warmed(name, self._kernel(name), some, start[:256], count // 4, rng)
        else:
            names = ", ".join([*SAMPLERS, "tempering"])
            raise ValueError(f"unknown sampler {name!r}; an energy is sampled by {names}")
        left = max(count - warmup, 1)
        watch = Excerpt(left, chains=of_one_class(classes))
        run = run_chains(
            kernel,
            target,
            start,
            left,
            warmup=warmup,
            rng=rng,
            keep="last",
            progress=as_steps(progress, "sampling"),
            watch=watch,
        )
        if not isinstance(self._sampling, Sampled):
            self._sampling = Sampled(name, *self._origin(classes))
        self._sampling.add(run, left, warmup, watch)
        return self._finish(run.x, classes)

    def _sample_conditional(
        self,
        values: Tensor,
        known: Tensor,
        rng: torch.Generator,
        *,
        steps: int | None,
        sampler: str | None,
        classes: Tensor | None,
        guidance: float | None,
        progress: ProgressCallback | None,
    ) -> Tensor:
        own, dim = next(self.model_.parameters()), math.prod(self.facts_["event_shape"])
        values = torch.where(known, values, 0).to(own.dtype)
        chains = torch.from_numpy(np.ascontiguousarray(self.calibration_["chains"])).to(values)
        base = GaussianBase.fit(chains, jitter=1e-3, widen=1.2)
        kernel = walker("mala", self.facts_["scale"], dim)
        particles = _PARTICLES if dim <= _PARTICLE_DIMENSIONS else 4
        shown = as_steps(progress, "conditional sampling")
        parts, blocks = [], torch.arange(len(values)).split(_ROWS // particles)
        for i, rows in enumerate(blocks):
            here = values[rows], known[rows], particles, steps or self.default_steps
            labels = None if classes is None else classes[rows].repeat_interleave(particles)
            target = self._given(labels).at(None)
            parts.append(settled_given(target, base, kernel, *here, rng))
            if shown is not None:
                shown(i + 1, len(blocks))
        self._sampling = {
            "sampler": "mala",
            "chains": particles * len(values),
            "steps": steps or self.default_steps,
            "start": "a Gaussian given the known cells of each row",
            "verdict": f"{particles} weighted particles a row, of which one is drawn: exact as "
            "particles and steps grow; R-hat is not asked",
        }
        return torch.where(known, values, torch.cat(parts))

    def _log_density(self, x: Tensor) -> Values:
        energy = cast(Energy, self._double())
        with torch.no_grad():
            value = -torch.cat([energy(part) for part in x.split(8192)]).cpu().numpy()
        log_z = self.facts_.get("log_z")
        if log_z is None:
            return Values(value, "unnormalised", np.full(len(value), math.nan))
        stderr = np.full(len(value), self.facts_["log_z_stderr"])
        return Values(value - log_z, self.facts_.get("log_z_kind", "ais"), stderr)

    def _surprise(self, x: Tensor) -> Tensor:
        """How strange each row is, shared out over dimensions by squared score."""
        energy, score = cast(Energy, self._double()).energy_and_score(x)
        share = score.square().flatten(1) + 1e-300
        share = share / share.sum(1, keepdim=True)
        return share * self._strangeness(x, energy.detach())[:, None]

    def _strangeness(self, x: Tensor, energy: Tensor) -> Tensor:
        """The anomaly score of encoded rows whose energy is known, shape (n,)."""
        return energy

    _training_rows: Tensor

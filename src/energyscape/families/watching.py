"""What is watched while an energy trains: its chains, and a held-out measure that needs no Z."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from energyscape.objectives import (
    Aux,
    ChainsDiverged,
    ExactScoreMatching,
    LossOutput,
    Objective,
    Perturbed,
    SlicedScoreMatching,
)
from energyscape.training import TrainingDiverged

__all__ = ["Watched", "by_parts"]


def by_parts(dim: int, noise: float) -> Objective:
    """The held-out measure of an energy without Z: score matching by parts, exact where cheap."""
    exact = dim <= 4
    return Perturbed(ExactScoreMatching() if exact else SlicedScoreMatching(), noise)


@dataclass(frozen=True)
class Watched:
    """A contrastive objective that ends training, with a reason, when its chains leave the data.

    Data and chains have about the same energy while the chains follow the model. A gap of `limit`
    nats means that they do not: the energy fell without bound, or the steps are too large.
    """

    objective: Objective
    dim: int

    @property
    def limit(self) -> float:
        """The gap in nats, above what any start of training shows."""
        return 1000.0 + 10.0 * self.dim

    @property
    def needs_double_backward(self) -> bool:
        """That of the objective within."""
        return self.objective.needs_double_backward

    def init(self, model: nn.Module, x: Tensor, rng: torch.Generator) -> Aux:
        """The state of the objective within."""
        return self.objective.init(model, x, rng)

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        aux: Aux,
        rng: torch.Generator,
        *,
        label: Tensor | None = None,
    ) -> LossOutput:
        """The loss of each row, shape (batch,).

        Raises
        ------
        TrainingDiverged
            When chains are not finite, or data and chains are `limit` nats apart.
        """
        try:
            out = self.objective(model, x, aux, rng, label=label)
        except ChainsDiverged as error:
            raise TrainingDiverged(f"training diverged: {error}") from error
        gap = float(out.metrics["energy_gap"])
        if not abs(gap) < self.limit:
            where = "above" if gap > 0 else "below"
            raise TrainingDiverged(
                f"training diverged: the data's energy is {abs(gap):.3g} nats {where} that of the "
                "chains, which no longer follow the model: lower learning_rate or step_size, raise "
                "chain_steps, or give regulariser=0.001"
            )
        return out

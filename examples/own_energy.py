"""A new energy of one's own: the same loop, checkpoints, artifact and chains as the built-in ones.

Eight Gaussians on a circle look the same after every quarter turn. An energy that *cannot* tell a
point from its turns learns from each row four times over. That is the new part, `TurnedEnergy`; all
else is the library's. Run it with ``python examples/own_energy.py [FOLDER]``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import Tensor

from energyscape import Energy, TrainConfig, load_weights, save_model, train
from energyscape.artifact import prepare
from energyscape.densities import eight_gaussians
from energyscape.mcmc import MALA, run_chains
from energyscape.nn import MLP
from energyscape.objectives import SlicedScoreMatching

ORACLE = eight_gaussians(radius=2.0, std=0.4)
ROWS = 2_000


# The ten lines: a new energy, trained with checkpoints into a folder, kept as a checksummed artifact.
class TurnedEnergy(Energy):
    def __init__(self) -> None:
        super().__init__()
        self.network = MLP((2,), width=64, depth=2, scalar=True)

    def forward(self, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        turned = torch.stack([-x[:, 1], x[:, 0]], dim=1)
        all_turns = torch.cat([x, turned, -x, -turned])
        return self.network(all_turns).reshape(4, len(x)).mean(0)


def fit(x: Tensor, held_out: Tensor, out: Path) -> TurnedEnergy:
    config = TrainConfig(max_steps=500, batch_size=128, learning_rate=5e-3, seed=0)
    run = train(
        TurnedEnergy(), SlicedScoreMatching(), x, validation=held_out, config=config, out=out
    )
    save_model(out, run.model, {"seed": config.seed, "steps": run.step, "rows": len(x)})
    return run.model


def main(out: Path) -> dict[str, float]:
    rng = torch.Generator().manual_seed(0)
    torch.manual_seed(0)  # a module's weights begin at torch's own generator
    rows = ORACLE.sample(ROWS + 1_000, rng).float()
    prepare(out, overwrite=True)
    energy = fit(rows[:ROWS], rows[ROWS:], out)

    # The folder is all that is needed next time, besides the class.
    again = TurnedEnergy()
    info = load_weights(out, again)
    x = ORACLE.sample(2_000, rng)
    again = again.double().eval()
    assert torch.equal(again(x), energy.double()(x))

    # How good is it? The oracle knows the score, and the ratio of the densities of any two points.
    exact, found = ORACLE.score(x), again.score(x)
    misfit = float((found - exact).square().sum() / exact.square().sum())
    on, between = ORACLE.means[:1], ORACLE.means[:2].mean(0, keepdim=True)
    ratio = float(again.log_ratio(on, between).detach())
    truth = float(ORACLE.log_prob(on) - ORACLE.log_prob(between))

    # Its density is walked on by any kernel: here with an acceptance test, from a wide start.
    start = 2.5 * torch.randn(400, 2, generator=rng, dtype=torch.float64)
    drawn = run_chains(MALA(0.1), again.at(), start, 150, warmup=100, keep="last", rng=rng).x
    radius, own = float(drawn.norm(dim=1).mean()), float(x.norm(dim=1).mean())

    print(f"{info['parameters']} weights, {info['steps']} steps on {info['rows']} rows, in {out}")
    print(f"misfit of the score, 0 is exact, 1 is no better than flat     {misfit:.3f}")
    print(f"log p(mode)/p(between two), learned and exact                 {ratio:.2f}  {truth:.2f}")
    print(f"mean distance from the centre, drawn and exact                {radius:.2f}  {own:.2f}")
    found_by_oracle = ORACLE.responsibilities(drawn).mean(0)
    print("share of draws by mode, 0.125 each  ", [round(v, 2) for v in found_by_oracle.tolist()])
    return {
        "misfit": misfit,
        "ratio_error": ratio - truth,
        "radius_error": radius - own,
        "rarest_mode": float(found_by_oracle.min()),
        "validations": sum(
            "validation_loss" in json.loads(line)
            for line in (out / "metrics.jsonl").read_text().splitlines()
        ),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/own-energy"))

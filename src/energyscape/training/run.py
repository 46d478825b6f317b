"""The state of a training run, one step of it, its validation and its checkpoints.

    loss_s   = mean over the global batch of objective(model, x_s, aux, rng)
    weights  <- AdamW(clip(grad loss_s), rate(fraction done))
    averages <- EMA(weights)

A loss or gradient that is not finite stops the run before the weights are touched. Validation uses
the averaged weights, the same rows and the same noise every time, so that its differences are due to
the weights.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from energyscape.nn import EMA
from energyscape.training import checkpoint
from energyscape.training.optimizer import FusedAdamW
from energyscape.training.plan import Plan, TrainConfig
from energyscape.training.processes import Processes
from energyscape.training.rollback import LIMIT, TIMES, Snapshots
from energyscape.training.rows import PermutationStream, Rows, TensorRows

__all__ = ["Run", "TrainingDiverged", "autocast", "choose_device"]

_VALIDATION_ROWS = 2048
_EMA_EVERY = 4
_ENDLESS = 10**9


class TrainingDiverged(RuntimeError):
    """The loss or its gradient stopped being finite."""


class Run:
    """The state of a run and the steps that change it."""

    def __init__(
        self,
        model: nn.Module,
        objective: Callable[..., Any],
        rows: Rows | Tensor,
        validation: Rows | Tensor | None,
        validation_objective: Callable[..., Any] | None,
        config: TrainConfig,
        out: str | os.PathLike[str] | None,
    ) -> None:
        self.processes = Processes.discover()
        self.config = config
        self.device = self.processes.device or choose_device(config.device)
        self.dtype = torch.float64 if config.precision == "float64" else torch.float32
        self.model = model.to(self.device, self.dtype)
        self.objective = objective
        self.validation_objective = validation_objective or objective
        self.rows = self._rows(rows)
        self.validation = None if validation is None else self._rows(validation)
        self.out = None if out is None else Path(out)
        world = self.processes.world_size
        if config.batch_size < world:
            raise ValueError(
                f"batch_size {config.batch_size} is less than a row for {world} processes"
            )
        self.batch = min(config.batch_size, max(len(self.rows), world))
        if self.batch % world:
            self.batch -= self.batch % world
        self.stream = PermutationStream(len(self.rows), config.seed)
        self.rng = torch.Generator(self.device).manual_seed(config.seed + 1 + self.processes.rank)
        self.processes.broadcast([*model.parameters(), *model.buffers()])
        self.parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self.fused = self.device.type in ("cpu", "cuda")
        kind = FusedAdamW if self.fused else torch.optim.AdamW
        self.optimizer: torch.optim.AdamW = kind(
            self.parameters,
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
        )
        self.ema = EMA(model, config.ema_decay)
        self.plan = Plan(config.max_steps if config.time_limit is None else _ENDLESS)
        self.step = 0
        self.aux: dict[str, Tensor] | None = None
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] | None = None
        self.best_loss = math.inf
        self.worse = 0
        self.elapsed = 0.0
        self.window = [0.0, 0.0]
        self.stop_reason = ""
        self.rollbacks = 0
        self.snapshots = Snapshots()

    def _rows(self, rows: Rows | Tensor) -> Rows:
        if isinstance(rows, Tensor):
            return TensorRows(rows.to(self.device, self.dtype))
        return rows

    # -- starting, saving and going on ---------------------------------------------------------

    def start(self, resume: bool) -> None:
        """Initialise, or restore the newest checkpoint."""
        torch.manual_seed(self.config.seed + 7919 * self.processes.rank)
        found = None
        if self.out is not None:
            (self.out / "train").mkdir(parents=True, exist_ok=True)
            found = checkpoint.latest(self.out / "train") if resume else None
            if not resume and self.processes.rank == 0:
                # Those of a run before, which would be gone on with later.
                checkpoint.remove_older(self.out / "train", None)
            self.processes.barrier()
        if found is not None:
            self._restore(found)
            return
        init = getattr(self.objective, "init", None)
        if init is not None:
            first = self.stream.take(0, min(len(self.rows), 4096)).to(self.device)
            x, _ = self.rows.batch(first, 0, self.rng)
            self.aux = init(self.model, x, self.rng)
        if self.out is not None and self.processes.rank == 0:
            (self.out / "metrics.jsonl").write_text("")

    def save(self) -> None:
        """Write a checkpoint of everything."""
        if self.out is None:
            return
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.state_dict().items()}
        tensors |= {f"aux.{k}": v for k, v in (self.aux or {}).items()}
        tensors |= {f"best.{k}": v for k, v in (self.best or {}).items()}
        tensors |= checkpoint.optimizer_tensors(self.optimizer)
        tensors["rng"] = self.rng.get_state()
        tensors["global_rng"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        record = {
            "config": asdict(self.config),
            "step": self.step,
            "plan": asdict(self.plan),
            "has_aux": self.aux is not None,
            "best_loss": self.best_loss,
            "worse": self.worse,
            "elapsed": self.elapsed,
            "window": self.window,
            "rollbacks": self.rollbacks,
            "stop_reason": self.stop_reason,
            "history": self.history,
        }
        checkpoint.write(
            self.out / "train",
            self.step,
            tensors,
            record,
            rank=self.processes.rank,
            barrier=self.processes.barrier if self.processes.world_size > 1 else None,
        )

    def _restore(self, folder: Path) -> None:
        rank, world = self.processes.rank, self.processes.world_size
        tensors, record = checkpoint.read(folder, rank=rank, world_size=world)
        wanted, found = asdict(self.config), record["config"]
        free = ("checkpoint_seconds", "device")
        changed = [
            k
            for k, v in wanted.items()
            if k not in free and json.loads(json.dumps(v)) != found.get(k)
        ]
        if changed:
            raise checkpoint.CheckpointError(
                f"{folder} was trained with other settings: "
                + ", ".join(f"{k}={found.get(k)} (now {wanted[k]})" for k in changed)
                + "; resume with the same ones, or start over"
            )

        def part(prefix: str) -> dict[str, Tensor]:
            n = len(prefix)
            return {k[n:]: v.to(self.device) for k, v in tensors.items() if k.startswith(prefix)}

        try:
            self.model.load_state_dict(part("model."))
            self.ema.load_state_dict(part("ema."))
        except RuntimeError as error:
            raise checkpoint.CheckpointError(
                f"{folder} holds another network, of another version perhaps; start over"
            ) from error
        checkpoint.load_optimizer(self.optimizer, tensors)
        self.aux = part("aux.") if record["has_aux"] else None
        self.best = part("best.") or None
        self.rng.set_state(tensors["rng"])
        torch.set_rng_state(tensors["global_rng"])
        if "cuda_rng" in tensors and self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["cuda_rng"], self.device)
        self.step = record["step"]
        self.plan = Plan(**record["plan"])
        self.best_loss, self.worse = record["best_loss"], record["worse"]
        self.elapsed, self.window = record["elapsed"], record["window"]
        self.history = record["history"]
        self.stop_reason = record["stop_reason"]
        self.rollbacks = record["rollbacks"]
        if self.out is not None and rank == 0:
            lines = "".join(json.dumps(h) + "\n" for h in self.history)
            (self.out / "metrics.jsonl").write_text(lines)

    # -- one step ------------------------------------------------------------------------------

    def _loss(self, x: Tensor, label: Tensor | None, done: float) -> tuple[Tensor, dict[str, Any]]:
        during = getattr(self.objective, "during", None)
        objective = self.objective if during is None else during(done)
        with autocast(self.config.precision, self.device):
            loss, self.aux, metrics = objective(self.model, x, self.aux, self.rng, label=label)
        if loss.ndim != 1 or len(loss) != len(x):
            raise ValueError(
                f"an objective gives one loss a row, shape ({len(x)},), got {tuple(loss.shape)}"
            )
        return loss.float().mean() if loss.dtype == torch.bfloat16 else loss.mean(), metrics

    def advance(self) -> tuple[float, float, dict[str, Any]]:
        """One optimizer step; returns loss, gradient norm and metrics of this process."""
        config, world = self.config, self.processes.world_size
        share = self.batch // world
        start = self.step * self.batch + self.processes.rank * share
        indices = self.stream.take(start, share).to(self.device)
        x, label = self.rows.batch(indices, self.step, self.rng)
        done = self._done()
        rate = config.rate(done) * 0.5**self.rollbacks
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        for parameter in self.parameters:
            parameter.grad = None  # as zero_grad does, in a tenth of its time
        loss, metrics = self._loss(x, label, done)
        loss.backward()
        self.processes.average_gradients(self.parameters)
        grads = [p.grad for p in self.parameters if p.grad is not None]
        norm = _norm(grads)
        value = self.processes.average(float(loss.detach()))
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise TrainingDiverged(self._divergence(value, norm, rate))
        self._clipped_step(grads, norm / config.grad_clip)
        self.step += 1
        if self.step % _EMA_EVERY == 0 or self.step < 50 or self.step >= self.plan.total:
            self.ema.update(self.step, every=_EMA_EVERY if self.step >= 50 else 1)
        return value, norm, metrics

    def outlook(self, speed: float) -> tuple[int, float]:
        """How many steps there will be at so many a second, and the seconds left."""
        if self.config.time_limit is None:
            return self.plan.total, (self.plan.total - self.step) / max(speed, 1e-9)
        left = max(self.config.time_limit - self.elapsed, 0.0)
        planned = self.plan.total < _ENDLESS
        return self.plan.total if planned else self.step + int(left * speed), left

    def _done(self) -> float:
        """The share of the run that is done after the next step; by the clock until there is a plan."""
        limit = self.config.time_limit
        if limit is not None and self.plan.total == _ENDLESS:
            return min(self.processes.average(self.elapsed) / limit, 1.0)
        return min(max(self.plan.fraction(self.step + 1), 0.0), 1.0)

    def _clipped_step(self, grads: list[Tensor], excess: float) -> None:
        """An optimizer step by the gradients, divided by `excess` where that is more than 1."""
        scale = None
        if excess > 1.0 and not self.fused:
            torch._foreach_div_(grads, excess)
        elif excess > 1.0:
            scale = torch.tensor(excess, dtype=torch.float32, device=self.device)
        # The fused step divides as it reads, which saves a pass over all gradients.
        self.optimizer.grad_scale = scale  # type: ignore[attr-defined]
        self.optimizer.step()

    def try_advance(self) -> tuple[float, float, dict[str, Any]] | None:
        """`advance`, or None where the run diverged and went back to a good state, as asked."""
        if self.config.on_divergence == "stop":
            return self.advance()
        self.snapshots.take_if_due(self, self.every(TIMES))
        try:
            return self.advance()
        except TrainingDiverged as error:
            # One process cannot go back alone, and an objective's own alarm is heard by one.
            if self.rollbacks >= LIMIT or self.processes.world_size > 1:
                raise
            reason, at = str(error), self.step + 1
        self.rollbacks += 1
        step = self.snapshots.restore(self)
        self.window = [0.0, 0.0]
        entry = {"step": step, "diverged_at": at, "rollbacks": self.rollbacks, "reason": reason}
        self._write(entry | {"seconds": self.elapsed})
        self.save()
        return None

    def _divergence(self, value: float, norm: float, rate: float) -> str:
        last = checkpoint.latest(self.out / "train") if self.out is not None else None
        kept = f"the last good checkpoint is {last}" if last else "no checkpoint was written yet"
        return (
            f"training diverged at step {self.step + 1}: loss {value}, gradient norm {norm}, "
            f"learning rate {rate:.3g}; {kept}. Try a smaller learning_rate"
        )

    # -- validation ----------------------------------------------------------------------------

    def validate(self) -> float:
        """The validation loss of the averaged weights on fixed rows with fixed noise."""
        assert self.validation is not None
        rng = torch.Generator(self.device).manual_seed(self.config.seed)
        n = min(len(self.validation), _VALIDATION_ROWS)
        judge = self.validation_objective
        # Others may differentiate the network and rely on gradients to be on.
        graph = getattr(judge, "needs_double_backward", False)
        graph = graph and not getattr(judge, "validates_without_graph", False)
        total = 0.0
        with self.ema.applied(), _evaluating(self.model), torch.set_grad_enabled(graph):
            for first in range(0, n, 512):
                indices = torch.arange(first, min(first + 512, n), device=self.device)
                x, label = self.validation.batch(indices, 0, rng)
                aux = self.aux if judge is self.objective else None
                with autocast(self.config.precision, self.device):
                    out = judge(self.model, x, aux, rng, label=label)
                total += float(out[0].detach().double().sum())
        return total / n

    def take_best_weights(self) -> None:
        """Leave the best validated averages, or the last, in the model, in eval mode."""
        if self.best is not None:
            buffers = dict(self.model.named_buffers())
            self.ema.load_state_dict({k: v for k, v in self.best.items() if k not in buffers})
            for name in buffers.keys() & self.best.keys():
                buffers[name].copy_(self.best[name])
        self.ema.copy_to_model()
        self.model.eval()

    def check(self) -> float:
        """Validate, and remember the averages if they are the best so far."""
        value = self.validate()
        if value < self.best_loss:
            self.best_loss, self.worse = value, 0
            if self.config.keep == "best":
                # With the buffers of then: a layer's spectral norm is told by its vectors.
                kept = self.ema.state_dict() | dict(self.model.named_buffers())
                self.best = {k: v.detach().clone() for k, v in kept.items()}
        else:
            self.worse += 1
        return value

    def every(self, times: int) -> int:
        """How many steps lie between things done so many times in a run of the planned length."""
        planned = self.plan.total if self.plan.total < _ENDLESS else 100 * times
        return max(1, planned // times)

    def replan_if_due(self) -> bool:
        limit = self.config.time_limit
        if limit is None:
            return False
        elapsed = self.processes.average(self.elapsed)
        if not self.plan.due(self.step, elapsed, limit):
            return False
        self.plan.replan(self.step, elapsed, limit)
        return True

    def _checks(self, rows: int) -> int:
        """How often to validate: as asked, but for at most about a twentieth of the training time.

        A held-out row costs a third of a training row. Counted by rows, so that a run repeats.
        """
        trained = self.batch * (self.plan.total if self.plan.total < _ENDLESS else 0)
        affordable = int(0.15 * trained / min(rows, _VALIDATION_ROWS))
        return min(self.config.validations, max(affordable, 4))

    def check_if_due(self, done: bool) -> None:
        """Validate at regular steps and at the end; may set the reason to stop."""
        if self.validation is None:
            return
        every = self.every(self._checks(len(self.validation)))
        if not (done or self.step % every == 0):
            return
        value = self.check()
        self._write({"step": self.step, "validation_loss": value, "seconds": self.elapsed})
        patience = self.config.patience
        if patience is not None and self.worse >= patience:
            self.stop_reason = f"no better validation loss in {patience} checks"

    def log_if_due(self, done: bool, value: float, norm: float, metrics: dict[str, Any]) -> None:
        """Collect the loss of a step, and log its mean about 200 times a run."""
        self.window = [self.window[0] + value, self.window[1] + 1]
        if done or self.step % self.every(200) == 0:
            self.log(norm, metrics)

    def log(self, norm: float, metrics: dict[str, Any]) -> None:
        """Add a record to the history and to metrics.jsonl."""
        entry: dict[str, Any] = {
            "step": self.step,
            "loss": self.window[0] / max(self.window[1], 1),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "grad_norm": norm,
            "seconds": self.elapsed,
        }
        entry |= {k: float(v) for k, v in metrics.items() if _is_scalar(v)}
        self.window = [0.0, 0.0]
        self._write(entry)

    def _write(self, entry: dict[str, Any]) -> None:
        self.history.append(entry)
        if self.out is not None and self.processes.rank == 0:
            with (self.out / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(entry) + "\n")

    def agreed(self, flag: bool) -> bool:
        """A decision by clock or signal, the same on every process."""
        if self.processes.world_size == 1:
            return flag
        return self.step % 10 == 0 and self.processes.agree(flag)


def _norm(grads: list[Tensor]) -> float:
    """The norm of all gradients together, each read once."""
    norms = torch.stack(list(torch._foreach_norm(grads)))
    return float(torch.linalg.vector_norm(norms.double() if norms.device.type != "mps" else norms))


def choose_device(name: str) -> torch.device:
    """The device called `name`; "auto" is the GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} is not available here: {error}") from error
    return device


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.numel() == 1)


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Products in bfloat16 where that is the precision."""
    if precision == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    was = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was)

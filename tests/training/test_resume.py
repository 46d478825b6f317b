"""A run killed at any moment goes on to the same bits; two processes train what one trains."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from energyscape import load

# A denoiser with dropout, so that both random streams matter, and a stateful objective.
SCRIPT = """
import sys, time
from pathlib import Path
import torch
from energyscape.models import EDMPreconditioning, PreconditionedDenoiser
from energyscape.nn import ResidualMLP
from energyscape.objectives import DenoisingLoss, edm_weight
from energyscape.schedules import EDM
from energyscape.training import TrainConfig, train
from safetensors.torch import save_file

torch.set_num_threads(1)
out, steps, delay = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
rng = torch.Generator().manual_seed(0)
x = torch.randn(300, 3, generator=rng)
torch.manual_seed(0)
model = PreconditionedDenoiser(
    ResidualMLP((3,), width=16, blocks=2, dropout=0.2), EDMPreconditioning(1.0)
)
base = DenoisingLoss(EDM.for_data(1.0), edm_weight(1.0))

class Counting:
    def init(self, model, x, rng):
        return {"calls": torch.zeros(1), "last": x[:4].clone()}

    def __call__(self, model, x, aux, rng, *, label=None):
        time.sleep(delay)
        result = base(model, x, None, rng)
        aux = {"calls": aux["calls"] + 1, "last": x[:4].clone()}
        return result[0], aux, result[2]

config = TrainConfig(max_steps=steps, batch_size=32, checkpoint_seconds=0.02, device="cpu", seed=5)
run = train(model, Counting(), x, validation=x[:50],
            validation_objective=base, config=config, out=out, resume=True)
save_file({**run.model.state_dict(), "calls": run.aux["calls"], "last": run.aux["last"]},
          out / "final.safetensors")
"""


def start(script: Path, *arguments: object, env: dict[str, str] | None = None) -> subprocess.Popen:
    command = [sys.executable, str(script), *map(str, arguments)]
    return subprocess.Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}, stderr=subprocess.PIPE
    )


def finish(process: subprocess.Popen) -> None:
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err.decode()[-2000:]


def test_killed_run_continues_to_the_same_bits(tmp_path):
    """Killed with SIGKILL four times at arbitrary moments, the run ends in the very same weights."""
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    straight = start(script, whole, 300, 0)
    kills = 0
    for wait in (0.05, 0.17, 0.31, 0.11):
        before = {p.name for p in (broken / "train").glob("step-*")}
        process = start(script, broken, 300, 0.004)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            now = {p.name for p in (broken / "train").glob("step-*") if p.suffix != ".partial"}
            if now - before:
                break
            time.sleep(0.01)
        time.sleep(wait)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
    assert kills >= 3
    finish(start(script, broken, 300, 0))
    finish(straight)
    expected, found = (load_file(p / "final.safetensors") for p in (whole, broken))
    assert expected["calls"] == 300
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


def test_interrupt_leaves_a_checkpoint(tmp_path):
    """Ctrl-C ends the step in progress, writes a checkpoint and raises KeyboardInterrupt."""
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    process = start(script, tmp_path / "run", 100000, 0.001)
    while not list((tmp_path / "run" / "train").glob("step-*")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert b"KeyboardInterrupt" in err
    whole = [p for p in (tmp_path / "run" / "train").glob("step-*") if p.suffix != ".partial"]
    assert len(whole) == 1


PARALLEL = """
import sys
from pathlib import Path
import torch
from energyscape.models import ConfinedEnergy, EDMPreconditioning, NetworkEnergy
from energyscape.models import PreconditionedDenoiser
from energyscape.nn import MLP
from energyscape.objectives import DenoisingLoss, ExactScoreMatching, edm_weight
from energyscape.schedules import EDM
from energyscape.training import TrainConfig, train
from safetensors.torch import save_file

torch.set_num_threads(1)
kind, out = sys.argv[1], Path(sys.argv[2])
x = torch.randn(256, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
x = x * torch.tensor([1.0, 0.3], dtype=torch.float64)
torch.manual_seed(0)
if kind == "exact":
    model = ConfinedEnergy(NetworkEnergy(MLP((2,), width=16, scalar=True)), 3.0)
    objective = ExactScoreMatching()
else:
    model = PreconditionedDenoiser(MLP((2,), width=32, noise=True), EDMPreconditioning(0.7))
    objective = DenoisingLoss(EDM.for_data(0.7), edm_weight(0.7))
config = TrainConfig(max_steps=200 if kind == "exact" else 600, batch_size=64, device="cpu",
                     precision="float64", learning_rate=3e-3)
run = train(model, objective, x, validation=x, config=config, out=out)
import os
if int(os.environ.get("RANK", 0)) == 0:
    last = [h["validation_loss"] for h in run.history if "validation_loss" in h][-1]
    state = {k: v.contiguous() for k, v in run.model.state_dict().items()}
    save_file({**state, "loss": torch.tensor([last])}, out / "final.safetensors")
"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def in_two_processes(*words: object) -> subprocess.CompletedProcess:
    """A script, or ``-m`` and a module, started twice by torchrun on the processor."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    return subprocess.run(
        [*launch, "--master_port", str(free_port()), *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        timeout=180,
        check=False,
    )


@pytest.mark.parametrize("kind", ["exact", "denoising"])
def test_two_processes_train_to_the_same_loss(tmp_path, kind):
    """Same global batch. Exact score matching draws no noise: the weights agree to rounding, through
    double backward. Denoising draws its own noise in each process: the losses agree within 3 %."""
    script = tmp_path / "parallel.py"
    script.write_text(PARALLEL)
    single = start(script, kind, tmp_path / "one")
    result = in_two_processes(script, kind, tmp_path / "two")
    assert result.returncode == 0, result.stderr.decode()[-3000:]
    finish(single)
    assert len(list((tmp_path / "two" / "train").glob("step-*/rank*.safetensors"))) == 2
    one, two = (load_file(tmp_path / name / "final.safetensors") for name in ("one", "two"))
    if kind == "exact":
        for name, value in one.items():
            assert torch.allclose(value, two[name], rtol=1e-6, atol=1e-8), name
    else:
        assert float(two["loss"]) == pytest.approx(float(one["loss"]), rel=0.03)


def test_the_command_line_fits_in_two_processes(tmp_path):
    """One seed, though none was given, one run, one voice; going on changes nothing that is done."""
    words = ["fit", "iris", "--out", tmp_path / "run", "--set", "max_steps=20", "--set", "width=8"]
    result = in_two_processes("-m", "energyscape", *words)
    told = result.stdout + result.stderr
    assert result.returncode == 0, told.decode()[-3000:]
    assert told.count(b"fitting edm to 150 rows") == 1
    model = load(tmp_path / "run")
    seed = model.info_["seed"]
    assert len(list((tmp_path / "run" / "train").glob("step-*"))) == 1
    assert len(list((tmp_path / "run" / "train").glob("step-*/rank*.safetensors"))) == 2
    again = in_two_processes("-m", "energyscape", *words)
    assert again.returncode != 0
    assert b"exists; give --overwrite" in again.stdout + again.stderr
    result = in_two_processes("-m", "energyscape", *words, "--resume")
    assert result.returncode == 0, result.stderr.decode()[-3000:]
    assert load(tmp_path / "run").info_["seed"] == seed

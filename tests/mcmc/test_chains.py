"""Runs of many chains: repeatable, adapted only in warm-up, and honest in their verdicts."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import pytest
import torch

from energyscape.densities import GaussianMixture
from energyscape.mcmc import (
    HMC,
    MALA,
    ULA,
    ChainWarning,
    DualAveraging,
    Excerpt,
    GaussianBase,
    ParallelTempering,
    RandomWalk,
    ais,
    anneal,
    compilation,
    diagnostics,
    find_modes,
    quadrature,
    run_chains,
)
from energyscape.mcmc.chains import _risen
from energyscape.mcmc.kernel import Info, State
from energyscape.models import ConfinedEnergy, NetworkEnergy, layered
from energyscape.targets import FunctionTarget, ScoreTarget


def normal(dim: int = 2, scale: float = 1.0) -> GaussianMixture:
    return GaussianMixture.isotropic(torch.zeros(1, dim), scale)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_run_is_a_function_of_its_generator() -> None:
    p, x0 = normal().at(0.0), torch.zeros(3, 2, dtype=torch.float64)
    first, second = (run_chains(MALA(0.3), p, x0, 100, warmup=30, rng=generator()) for _ in "ab")
    assert torch.equal(first.draws, second.draws)
    last = run_chains(MALA(0.3), p, x0, 100, warmup=30, rng=generator(), keep="last")
    assert torch.equal(last.x, first.x)
    assert last.draws.shape == (1, 3, 2)
    assert last.info.acceptance is not None
    assert first.info.acceptance is not None
    assert torch.allclose(last.info.acceptance[0], first.info.acceptance.mean(0))


def test_thinning_keeps_every_nth_draw_with_its_log_density() -> None:
    p, x0 = normal().at(0.0), torch.zeros(3, 2, dtype=torch.float64)
    every = run_chains(MALA(0.3), p, x0, 60, rng=generator())
    thin = run_chains(MALA(0.3), p, x0, 60, thin=5, rng=generator())
    assert torch.equal(thin.draws, every.draws[4::5])
    assert thin.log_prob is not None
    assert torch.allclose(thin.log_prob[-1], p.value(thin.x))
    assert thin.info.diverged.shape == (12, 3)
    with pytest.raises(ValueError, match="multiple of thin"):
        run_chains(MALA(0.3), p, x0, 61, thin=5, rng=generator())


@pytest.mark.parametrize(
    ("kernel", "wanted"),
    [(RandomWalk(5.0), 0.234), (MALA(1e-3), 0.574), (HMC(3.0, 5), 0.7)],
)
def test_warm_up_reaches_the_wanted_acceptance_from_a_bad_start(
    kernel: RandomWalk | MALA | HMC, wanted: float
) -> None:
    p = normal(5, 0.3)
    x0 = p.sample(40, generator(1))
    chains = run_chains(kernel, p.at(0.0), x0, 100, warmup=400, rng=generator())
    assert chains.info.acceptance is not None
    assert abs(float(chains.info.acceptance.mean()) - wanted) < 0.1
    tuned = chains.kernel
    frozen = run_chains(tuned, p.at(0.0), x0, 5, warmup=5, adapt=False, rng=generator())
    assert frozen.kernel is tuned


def test_a_diverged_chain_is_left_out_of_adaptation() -> None:
    p = normal(2).at(0.0)
    x0 = torch.randn(20, 2, generator=generator(), dtype=torch.float64)
    bad = x0.clone()
    bad[:10] = float("nan")
    sizes = [
        run_chains(MALA(0.1), p, x, 1, warmup=300, rng=generator()).kernel.step_size
        for x in (x0, bad)
    ]
    assert abs(sizes[1] / sizes[0] - 1) < 0.2


def test_chees_lengthens_the_trajectory_where_the_target_is_long() -> None:
    """A Gaussian of standard deviations 1 and 10 wants trajectories of about its longest scale."""
    covariance = torch.diag(torch.tensor([1.0, 100.0]))[None]
    p = GaussianMixture([1.0], torch.zeros(1, 2), covariance)
    x0 = p.sample(64, generator(1))
    kernel = HMC(0.5, trajectory_length=0.5)
    chains = run_chains(kernel, p.at(0.0), x0, 100, warmup=250, rng=generator())
    assert 4.0 < chains.kernel.trajectory_length < 60.0
    assert chains.diagnostics.rhat < 1.02


def test_dual_averaging_finds_the_step_of_a_known_curve() -> None:
    averaging = DualAveraging(1e-4, target=0.6)
    for _ in range(2000):
        averaging.update(1.0 / (1.0 + averaging.step_size))
    assert abs(averaging.averaged - 2 / 3) < 0.05


def test_verdicts_say_what_is_wrong() -> None:
    p = GaussianMixture.isotropic(torch.tensor([[-20.0], [20.0]]), 1.0)
    x0 = torch.tensor([[-20.0], [-20.0], [20.0], [20.0]], dtype=torch.float64)
    chains = run_chains(MALA(0.8), p.at(0.0), x0, 500, rng=generator())
    assert chains.diagnostics.rhat > 1.5
    assert chains.diagnostics.verdict.startswith("chains have not mixed: R-hat")
    modes = torch.tensor([[-20.0], [20.0], [90.0]])
    more = run_chains(MALA(0.8), p.at(0.0), x0, 500, rng=generator(), modes=modes).diagnostics
    assert "2 of 3 modes never left, by 4 of 4 chains" in more.verdict
    assert "1 of 3 modes never visited" in more.verdict
    # One chain that crosses over frees the mode it left; the other mode is still never left.
    crossed = chains.draws.clone()
    crossed[250:, 0] += 40.0
    assert (
        "1 of 2 modes never left, by 2 of 4 chains" in diagnostics(crossed, modes=modes[:2]).verdict
    )
    still = diagnostics(x0.expand(50, -1, -1))
    assert "4 of 4 chains never moved" in still.verdict


def test_ess_of_independent_and_correlated_draws() -> None:
    draws = torch.randn(1000, 4, 3, generator=generator(), dtype=torch.float64)
    assert 3000 < diagnostics(draws).ess_bulk < 5000
    # An AR(1) chain of correlation r is worth (1 - r) / (1 + r) of its length: a third at 1/2.
    walk = [draws[0]]
    for eps in draws[1:]:
        walk.append(0.5 * walk[-1] + 0.75**0.5 * eps)
    assert abs(diagnostics(torch.stack(walk)).ess_bulk / 4000 - 1 / 3) < 0.08
    pictures = torch.randn(20, 2, 1, 40, 40, generator=generator())
    assert diagnostics(pictures).rhat_each.shape == (256,)
    with pytest.raises(ValueError, match="n, chains"):
        diagnostics(torch.zeros(3))


def test_runs_that_should_not_be_trusted_are_told_by_name() -> None:
    x0 = torch.ones(4, 2, dtype=torch.float64)
    with pytest.warns(ChainWarning, match="MALA accepted nothing in 50 steps of 4 chains"):
        run_chains(MALA(1e6), normal().at(0.0), x0, 50, rng=generator())
    hole = FunctionTarget(lambda x: 0.5 * x.square().sum(1))
    with pytest.warns(ChainWarning, match="unbounded below"):
        run_chains(RandomWalk(1e5), hole, x0, 200, rng=generator())
    with pytest.warns(ChainWarning, match=r"HMC still climbs: .* 2\d\d nats .*unbounded below"):
        run_chains(HMC(0.05, 5), hole, x0, 100, rng=generator(), keep="last")
    with pytest.warns(ChainWarning, match=r"MALA accepted less than 1 % in the last .* 4 of 4"):
        run_chains(MALA(0.1), hole, x0, 400, rng=generator(), keep="last")
    with pytest.warns(ChainWarning, match="ULA diverged in 4 of 4 chains"):
        run_chains(ULA(3.0), ScoreTarget(lambda x: -(x**3)), 10 * x0, 50, rng=generator())


def told(kernel: Any, target: Any, x0: torch.Tensor, num_steps: int, **settings: Any) -> list[str]:
    """What a run is warned of."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        run_chains(kernel, target, x0, num_steps, rng=generator(1), keep="last", **settings)
    return [str(w.message) for w in found]


LINEAR = FunctionTarget(lambda x: x.sum(1))
KERNELS = [ULA(0.1), MALA(0.1), HMC(0.15, 3), RandomWalk(0.5)]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("chains", "dim"), [(8, 1), (4, 2), (50, 2)])
def test_a_linear_energy_is_told_by_its_steady_rise(kernel: Any, chains: int, dim: int) -> None:
    x0 = torch.randn(chains, dim, generator=generator(), dtype=torch.float64)
    (said,) = told(kernel, LINEAR, x0, 300)
    assert said.startswith(f"{type(kernel).__name__} has kept rising over the whole run")
    assert "unbounded below" in said
    assert "far from settled" in said
    if isinstance(kernel, ULA):  # by the score alone as well
        assert told(kernel, ScoreTarget(torch.ones_like), x0, 300) == [said]


@pytest.mark.parametrize("kernel", KERNELS)
def test_settled_and_settling_chains_are_not_said_to_rise(kernel: Any) -> None:
    """In equilibrium, from one point at the mode, and from far but settled by the middle of the run;
    tails of a Gaussian, of Student's t and of Laplace's law, walked by energy and by score."""
    densities = {
        "normal": lambda x: -0.5 * x.square().sum(1),
        "student": lambda x: -1.5 * x.square().sum(1).log1p(),
        "laplace": lambda x: -(1 + x.square()).sqrt().sum(1),
    }
    eps = torch.randn(20, 2, generator=generator(), dtype=torch.float64)
    spread = torch.rand(20, 1, generator=generator(2), dtype=torch.float64).sqrt()
    starts = {"normal": eps, "student": eps / spread, "laplace": eps}
    for name, log_prob in densities.items():
        target = FunctionTarget(log_prob)
        for x0 in (starts[name], 0 * eps):
            assert told(kernel, target, x0, 60) == []
    target = FunctionTarget(densities["normal"])
    assert told(kernel, target, 0 * eps[:8] + 5.0, 160) == []
    if isinstance(kernel, ULA):
        assert told(kernel, ScoreTarget(lambda x: -x), 0 * eps + 50.0, 300) == []


@pytest.mark.parametrize("kernel", [ULA(0.01), MALA(0.01)])
def test_chains_that_slow_down_are_not_said_to_rise(kernel: Any) -> None:
    """From 50 standard deviations to within 3 of them, every quarter half as far as the last."""
    target, x0 = normal().at(0.0), torch.full((20, 2), 50.0, dtype=torch.float64)
    assert told(kernel, target, x0, 300) == []
    if isinstance(kernel, ULA):
        assert told(kernel, ScoreTarget(lambda x: -x), x0, 300) == []


def test_chance_is_not_said_to_rise() -> None:
    """One chain or four that move away, at log-densities of settled ones that know nothing of one
    another: some happen to rise in every quarter, none by what a steady rise takes."""
    rng, rises = generator(7), 0
    x0 = torch.zeros(4, 2, dtype=torch.float64)
    for i in range(1200):
        count = 1 if i % 2 else 4
        values = -0.5 * torch.randn(4, count, 2, generator=rng, dtype=torch.float64).square().sum(2)
        passed = [(x0[:count] + k + 1, value) for k, value in enumerate(values)]
        assert _risen(LINEAR, x0[:count], passed) == 0.0
        rises += bool((values.median(1).values.diff() > 0).all())
    assert rises > 20
    steady = [(x0 + k, (x0 + k).sum(1) * 2) for k in (1, 2, 3, 4)]
    assert _risen(LINEAR, x0, steady) == 12.0


def test_a_step_too_large_for_ula_is_named_first() -> None:
    x0 = torch.ones(4, 2, dtype=torch.float64)
    (said,) = told(ULA(3.0), normal().at(0.0), x0, 100)
    assert said.index("its step of 3 is too large") < said.index("unbounded below")
    assert "take a smaller step, and if that does not help confine the energy" in said


def test_what_is_no_target_is_told_what_would_be() -> None:
    energy, x0 = NetworkEnergy(torch.nn.Linear(2, 1)), torch.zeros(4, 2)
    walks: list[Any] = [
        lambda target: run_chains(MALA(0.1), target, x0, 5, rng=generator()),
        lambda target: anneal(x0, [target], MALA(0.1), 5, rng=generator()),
        lambda target: find_modes(target, x0),
        lambda target: ais(target, GaussianBase(torch.zeros(2), torch.eye(2)), rng=generator()),
        lambda target: quadrature(target, x0, 1.0),
    ]
    for walk in walks:
        with pytest.raises(TypeError, match=r"NetworkEnergy is none: give .* energy\.at\(\)"):
            walk(energy)
        with pytest.raises(TypeError, match="Linear is none: wrap a network in NetworkEnergy"):
            walk(energy.network)
    assert len(run_chains(ULA(0.1), energy.at(), x0, 5, rng=generator()).draws) == 5


def test_progress_counts_every_step() -> None:
    seen: list[tuple[int, int]] = []
    x0 = torch.zeros(2, 2)
    run_chains(
        ULA(0.1),
        ScoreTarget(lambda x: -x),
        x0,
        150,
        warmup=20,
        rng=generator(),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (170, 170)


def test_pictures_keep_their_shape() -> None:
    target = FunctionTarget(lambda x: -0.5 * x.square().flatten(1).sum(1))
    x0 = torch.zeros(3, 1, 4, 4)
    for kernel in (RandomWalk(0.3), MALA(0.3), HMC(0.3, 2), ULA(torch.tensor([0.1, 0.2, 0.3]))):
        assert run_chains(kernel, target, x0, 4, rng=generator()).draws.shape == (4, 3, 1, 4, 4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("kernel", [ULA(0.1), MALA(0.3), RandomWalk(0.5), HMC(0.2, 2)])
def test_traced_blocks_walk_the_same_path(
    kernel: ULA | MALA | RandomWalk | HMC, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced into one graph (without generating code) steps and gradients are the plain ones."""
    monkeypatch.setattr(compilation, "BACKEND", "eager")
    monkeypatch.setattr(compilation, "CHUNK", 3)
    net = torch.nn.Sequential(
        torch.nn.Linear(2, 8), torch.nn.SiLU(), torch.nn.Linear(8, 1)
    ).double()
    target = FunctionTarget(lambda x: net(x).squeeze(1) - 0.5 * x.square().sum(1))
    x0 = torch.randn(5, 2, generator=generator(), dtype=torch.float64)
    plain, traced = (
        run_chains(kernel, target, x0, 8, rng=generator(1), compile=c) for c in (False, True)
    )
    assert torch.allclose(plain.draws, traced.draws, atol=1e-12)
    with pytest.raises(ValueError, match="cannot be compiled"):
        run_chains(HMC(0.1, trajectory_length=1.0), target, x0, 8, rng=generator(), compile=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("kernel", [ULA(0.1), MALA(0.3), RandomWalk(0.5)])
def test_traced_chains_in_groups_walk_the_same_path(
    kernel: ULA | MALA | RandomWalk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network too wide for the caches is walked a group of chains after another: the same numbers,
    of steps that fill a chunk and of the rest, and one shape of group, so one graph."""
    monkeypatch.setattr(compilation, "BACKEND", "eager")
    monkeypatch.setattr(compilation, "CHUNK", 3)
    monkeypatch.setattr(layered, "_PART", 16)
    net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    target = ConfinedEnergy(NetworkEnergy(net.double()), 1.5).at()
    x0 = torch.randn(30, 2, generator=generator(), dtype=torch.float64)
    seen: list[int] = []
    run = compilation._split

    def split(held: Any, count: int, dim: int) -> list[Any]:
        parts = run(held, count, dim)
        seen.append(len(parts[0].x) if dim == 0 else parts[0][0].shape[1])
        return parts

    monkeypatch.setattr(compilation, "_split", split)
    plain, traced = (
        run_chains(kernel, target, x0, 8, rng=generator(1), compile=c) for c in (False, True)
    )
    assert set(seen) == {30 // -(-30 // (2 * torch.get_num_threads()))}
    assert torch.allclose(plain.draws, traced.draws, atol=1e-12)
    assert torch.equal(plain.info.diverged, traced.info.diverged)
    for a, b in (
        (plain.log_prob, traced.log_prob),
        (plain.info.acceptance, traced.info.acceptance),
    ):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, atol=1e-12)


@pytest.mark.parametrize(
    ("chains", "at_once", "groups"),
    [(10_000, 2048, 5), (100, 2048, 1), (100, None, 1), (9, 2, 9), (10, 3, 5), (10_007, 2048, 1)],
)
def test_groups_of_chains_are_equal(chains: int, at_once: int | None, groups: int) -> None:
    assert compilation._groups(chains, at_once) == groups


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_one_graph_serves_other_step_sizes_and_many_graphs_are_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A second run compiles nothing, and torch's limit on graphs, here 2, does not end a run."""
    monkeypatch.setattr(compilation, "BACKEND", "eager")
    monkeypatch.setattr(compilation, "CHUNK", 2)
    graphs = torch._dynamo.utils.counters["stats"]
    x0 = torch.zeros(3, 2)
    first = FunctionTarget(lambda x: -0.5 * x.square().sum(1))
    run_chains(MALA(0.3), first, x0, 2, rng=generator(), compile=True)
    before = graphs["unique_graphs"]
    run_chains(MALA(0.4), first, x0, 2, rng=generator(), compile=True)
    assert graphs["unique_graphs"] == before
    with torch._dynamo.config.patch(recompile_limit=2):
        for k in range(3):
            target = ScoreTarget(lambda x, k=k: -k * x)
            run_chains(ULA(0.1), target, x0, 2, rng=generator(), compile=True)


def test_what_earns_compiling_back_is_length_times_width() -> None:
    """Measured: 0.15 ms a step of ten chains, one to three ms of 10,000, against half a minute."""
    assert not compilation.pays(200_000, 10)
    assert compilation.pays(250_000, 10)
    assert not compilation.pays(2_000, 10_000)
    assert compilation.pays(40_000, 10_000)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_long_run_that_cannot_be_compiled_goes_on_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compilation, "BACKEND", "eager")
    monkeypatch.setattr(compilation, "EARNS_BACK", 1e-3)
    monkeypatch.setattr(compilation.shutil, "which", lambda name: name)

    def branching(x: torch.Tensor) -> torch.Tensor:
        return -x if float(x.sum()) > 0 else -2 * x

    target, x0 = ScoreTarget(branching), torch.ones(3, 2)
    plain = run_chains(ULA(0.1), target, x0, compilation.CHUNK, rng=generator(), compile=False)
    with pytest.warns(ChainWarning, match="could not be"):
        auto = run_chains(ULA(0.1), target, x0, compilation.CHUNK, rng=generator())
    assert torch.equal(auto.draws, plain.draws)
    with pytest.raises(RuntimeError):
        run_chains(ULA(0.1), target, x0, compilation.CHUNK, rng=generator(), compile=True)


def test_a_kernel_may_say_of_some_steps_alone_that_chains_diverged() -> None:
    """None stands for "none did", wherever in a run it stands."""

    class Walk:
        target_acceptance = None

        def init(self, x, target):
            return State(x)

        def draw(self, num_steps, like, rng):
            return Noise(torch.randn(num_steps, *like.shape, generator=rng))

        def step(self, state, target, noise):
            bad = noise[0].abs().amax(1) > 2.5
            return State(state.x + 0.1 * noise[0]), Info(
                None, None, bad if bool(bad.any()) else None
            )

    class Noise(NamedTuple):
        eps: torch.Tensor

    target, x0 = ScoreTarget(lambda x: -x), torch.zeros(3, 2)
    each = run_chains(Walk(), target, x0, 64, rng=generator()).info.diverged
    assert each.shape == (64, 3)
    last = run_chains(Walk(), target, x0, 64, rng=generator(), keep="last").info.diverged
    assert torch.equal(last, each.sum(0, keepdim=True))
    assert int(each.sum()) > 0


@pytest.mark.parametrize("steps", [3, 150, 257])
def test_an_excerpt_keeps_draws_of_the_run_and_changes_none(steps: int) -> None:
    """Its draws are those of the whole run, every so many steps back from the last."""
    p, x0 = normal(5).at(0.0), torch.randn(7, 5, generator=generator(), dtype=torch.float64)
    whole = run_chains(MALA(0.3), p, x0, steps, warmup=9, rng=generator(1))
    kept = Excerpt(steps, draws=10, chains=torch.tensor([1, 4]), coordinates=2)
    same = run_chains(MALA(0.3), p, x0, steps, warmup=9, rng=generator(1), keep="last", watch=kept)
    assert torch.equal(same.x, whole.x)
    every = -(-steps // 10)
    wanted = whole.draws[(steps - 1) % every :: every]
    assert len(wanted) <= 10
    assert torch.equal(kept.draws[..., :2], wanted[:, [1, 4]][..., [0, 4]])
    assert whole.log_prob is not None
    assert kept.energies is not None
    energies = -whole.log_prob[(steps - 1) % every :: every][:, [1, 4]]
    assert torch.equal(kept.energies, energies)


def test_an_excerpt_without_energies_and_of_tempered_chains() -> None:
    p, x0 = normal().at(0.0), torch.zeros(5, 2, dtype=torch.float64)
    kept = Excerpt(20)
    run_chains(ULA(0.1), p, x0, 20, rng=generator(), keep="last", watch=kept)
    assert kept.energies is None
    assert kept.draws.shape == (20, 5, 2)
    kept, kernel = Excerpt(20), ParallelTempering(MALA(0.3), (1.0, 0.5))
    cold = run_chains(kernel, p, x0, 20, rng=generator(), keep="last", watch=kept)
    assert kept.draws.shape == (20, 5, 3)
    assert torch.equal(kept.draws[-1, :, :2], cold.x)

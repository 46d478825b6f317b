"""Each lesson's claim, at settings small enough for a test; pages that need nothing but themselves."""

from __future__ import annotations

import html
import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from energyscape.data import Dataset, as_dataset, load
from energyscape.densities import GaussianMixture
from energyscape.lab import LESSONS, Lesson, build, lesson_function
from energyscape.lab.chains import crossing, metropolis
from energyscape.lab.cost import slicing
from energyscape.lab.density import score_error
from energyscape.lab.edges import hard_edges
from energyscape.lab.negatives import collapse
from energyscape.lab.noise import noise_level, tiny_noise
from energyscape.lab.page import render
from energyscape.lab.points import encoded, plane, published_mixture, stand_in
from energyscape.lab.quadrature import annealed_weight, triangular
from energyscape.lab.reverse import kernel_divergences, reverse_kernel
from energyscape.lab.sheets import naive_samples
from energyscape.mcmc import ULA, run_chains

TINY: dict[str, dict[str, object]] = {
    "score-error": {"steps": 4, "rows": 300},
    "tiny-noise": {"steps": 8},
    "crossing": {"chains": 64, "steps": 100},
    "noise-level": {"levels": (0.3, 3.0), "steps": 3, "chains": 64, "chain_steps": 24},
    "slicing": {"dims": (2, 8), "repeats": 1},
    "collapse": {"steps": 4, "chain_steps": 2},
    "metropolis": {"chains": 8, "steps": 100},
    "naive-samples": {
        "steps": 3,
        "levels": 3,
        "steps_per_level": 1,
        "samples": 30,
        "width": 16,
    },
    "hard-edges": {"steps": 10},
    "reverse-kernel": {"counts": (2, 4), "steps": 3, "samples": 30, "rows": 40},
}


@pytest.fixture(scope="module")
def table() -> Dataset:
    """Five numeric columns of unequal spread, one of which ends at an edge."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(240, 5)) * [1, 2, 3, 4, 5]
    x[:120, 0] += 8
    x[:, 4] = rng.uniform(0, 1, 240)
    return as_dataset(x)


def test_every_lesson_has_a_function_and_tiny_settings() -> None:
    assert set(TINY) == set(LESSONS)
    assert [lesson_function(name).__name__.replace("_", "-") for name in LESSONS] == list(LESSONS)


@pytest.mark.parametrize("name", LESSONS)
def test_a_page_of_each_lesson_on_a_table_needs_nothing_but_itself(
    name: str, table: Dataset, tmp_path: Path
) -> None:
    page, lesson = build(name, table, tmp_path / "page.html", seed=1, **TINY[name])
    text = page.read_text(encoding="utf-8")
    assert isinstance(lesson, Lesson)
    assert not re.search(r'(?:src|href)="(?!data:|#)', text.replace("xlink:href", "xlink"))
    assert lesson.title in html.unescape(text)
    assert lesson.figures
    assert all(math.isfinite(v) for v in lesson.numbers.values()), lesson.numbers
    assert text.count("<figure>") == len(lesson.figures)
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize("name", ["crossing", "hard-edges"])
def test_the_same_seed_gives_the_same_numbers(name: str, table: Dataset) -> None:
    first, again = (lesson_function(name)(table, 3, **TINY[name]).numbers for _ in range(2))
    assert first == again
    assert first != lesson_function(name)(table, 4, **TINY[name]).numbers


def test_an_unknown_lesson_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there are score-error"):
        build("crosing", None, tmp_path / "page.html")
    with pytest.raises(ValueError, match="create it first"):
        build("crossing", None, tmp_path / "no" / "page.html")


def test_a_lesson_that_does_not_show_says_so() -> None:
    lesson = Lesson("T", "C", "f <b>", False, ["p"], {"n": 1.0}, [])
    text = render(lesson, "crossing", seed=0, seconds=1.0)
    assert "It does not show here" in text
    assert "f &lt;b&gt;" in text


def test_langevin_keeps_half_and_annealed_langevin_finds_a_fifth() -> None:
    """500 chains: standard errors 0.022 and 0.018, so both bounds are over 3 of them."""
    found = crossing(chains=500, steps=1000).numbers
    assert abs(found["Langevin weight"] - 0.5) < 0.08
    assert abs(found["annealed weight"] - 0.217) < 0.06
    assert found["expected annealed weight"] == pytest.approx(0.217, abs=0.001)
    # Finer steps alone leave the bias; a longer walk takes it away.
    assert abs(found["expected annealed weight, 8 times finer steps"] - 0.2) > 0.015
    assert abs(found["expected annealed weight, 8 times more steps"] - 0.2) < 0.004


def test_crossing_does_not_show_where_there_is_nothing_to_cross() -> None:
    """One bell of rows: both walks are as near to the weights as chance lets them be."""
    rows = np.random.default_rng(0).normal(size=(400, 2))
    lesson = crossing(as_dataset(rows), chains=300, steps=300)
    chance = lesson.numbers["distance of as many exact draws' weights, expected"]
    assert lesson.numbers["distance of Langevin weights"] < 5 * chance
    assert not lesson.holds


def test_the_quadrature_agrees_with_chains_and_does_not_depend_on_its_grid(
    rng: torch.Generator,
) -> None:
    """20,000 chains of 60 steps on near modes: standard error 0.0034, bound four of them."""
    u = np.linspace(-12, 12, 20_001)
    assert np.trapezoid(triangular(u, 8.0), u) == pytest.approx(1, abs=1e-6)
    x0 = 16 * torch.rand(20_000, 2, generator=rng, dtype=torch.float64) - 8
    means = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])
    p = GaussianMixture.isotropic(means, 1.0, [0.2, 0.8])
    x = run_chains(ULA(0.05), p.at(0.0), x0, 60, rng=rng, keep="last").x
    share = float((x.sum(1) < 0).double().mean())
    assert annealed_weight([1.0], 60, 0.05, centre=2**0.5) == pytest.approx(share, abs=0.0137)


def test_untested_steps_are_biased_by_the_formula_and_tests_are_not() -> None:
    found = metropolis(chains=12, steps=300).numbers
    for h in ("0.5", "1"):
        formula = found[f"variance by formula, h = {h}"]
        assert found[f"variance of untested steps, h = {h}"] == pytest.approx(formula, rel=0.1)
    gain = {
        d: found[f"MALA draws' worth per 1,000 steps, {d} dimensions"]
        / found[f"Metropolis draws' worth per 1,000 steps, {d} dimensions"]
        for d in (2, 50)
    }
    assert gain[50] > max(gain[2], 2)


def test_exact_score_matching_pays_for_dimensions_and_sliced_does_not() -> None:
    found = slicing(dims=(4, 64), repeats=3)
    ratio = [found.numbers[f"exact over sliced, {d} dimensions"] for d in (4, 64)]
    assert ratio[1] > 3 * ratio[0]
    assert found.holds


def test_a_learned_score_is_worse_where_there_is_no_data() -> None:
    lesson = score_error(steps=250, rows=4000)
    assert lesson.holds
    assert lesson.numbers["rank correlation of error and log-density"] < -0.3


def test_noise_calms_the_loss_on_a_thin_sheet() -> None:
    lesson = tiny_noise(steps=150)
    assert lesson.numbers["directions without any spread"] == 30
    assert lesson.holds


def test_a_ladder_beats_the_ends_of_one_level() -> None:
    lesson = noise_level(levels=(0.1, 8.0), steps=150, chains=200, chain_steps=120)
    assert lesson.holds
    near, far = (
        lesson.numbers[f"relative error where chains start, sigma = {s}"] for s in (0.1, 8)
    )
    assert near > far


def test_without_negatives_energies_fall_everywhere() -> None:
    lesson = collapse(steps=120, chain_steps=8)
    found = lesson.numbers
    assert found["energy on data at the end, without negatives"] < -20
    assert abs(found["energy on data at the end, with negatives"]) < 20
    uniform = found["held-out log-density, uniform over the picture"]
    assert found["held-out log-density, without negatives"] < uniform
    assert found["held-out log-density, with negatives"] > uniform
    bare, whole = (
        float(re.search(r"holds (\d+)%", item.caption.replace(" %", "%"))[1])  # type: ignore[index]
        for item in lesson.figures[1:]
    )
    assert bare > 95
    assert whole < 30


def test_a_ladder_draws_what_one_level_cannot() -> None:
    settings = {"steps": 80, "levels": 10, "steps_per_level": 4, "samples": 100, "width": 32}
    lesson = naive_samples(load("eight-gaussians"), 0, **settings)
    assert lesson.holds


def test_a_hard_edge_is_paid_for_in_likelihood_and_logits_cure_it() -> None:
    lesson = hard_edges(steps=200)
    assert lesson.numbers["loss by parts at the end of training"] < -0.5
    truth = lesson.numbers["held-out log-density, the truth"]
    assert truth == pytest.approx(-math.log(2))
    assert lesson.numbers["held-out log-density, in logits"] == pytest.approx(truth, abs=0.03)
    assert lesson.holds


def test_columns_without_an_edge_are_told() -> None:
    bell = np.random.default_rng(0).normal(size=(400, 2))
    assert "about other data than these" in hard_edges(as_dataset(bell), steps=2).notes[-1]
    flat = hard_edges(as_dataset(np.random.default_rng(0).uniform(size=(400, 1))), steps=2)
    assert "within 1 %" in flat.notes[-1]
    years = np.random.default_rng(0).choice([0.0, 5.0, 10.0], 400)[:, None] + bell[:, :1] / 10
    with pytest.raises(ValueError, match="without wide gaps"):
        hard_edges(as_dataset(years), steps=2)


def test_the_reverse_kernel_turns_gaussian_as_steps_shrink() -> None:
    """Halving the steps of a fine ladder quarters each divergence or better."""
    ladder = np.geomspace(5, 0.05, 9)
    worst = [kernel_divergences(np.geomspace(5, 0.05, 8 * k + 1)).max() for k in (1, 2, 4, 8)]
    assert all(b < 0.4 * a for a, b in itertools.pairwise(worst)), worst
    assert np.allclose(
        kernel_divergences(ladder), kernel_divergences(ladder, points=321), rtol=0.02
    )


def test_who_knows_rows_by_heart_gives_them_back() -> None:
    found = reverse_kernel(counts=(4, 32), steps=200, samples=100, rows=100).numbers
    assert found["nearest-neighbour ratio, every row by heart, 32 steps"] < 0.1
    assert found["nearest-neighbour ratio, trained, 32 steps"] > 0.3
    far = [found[f"distance to held-out rows, trained, {n} steps"] for n in (4, 32)]
    assert far[1] < far[0]


def test_points_are_projected_and_say_so(table: Dataset) -> None:
    points = plane(encoded(table, "", 0))
    assert points.x.shape == (240, 2)
    assert any("principal directions" in note for note in points.notes)
    assert float(points.x.std(0).max()) == pytest.approx(1, abs=1e-5)
    mixture, notes = stand_in(points, 0)
    assert mixture.dim == 2
    assert "stands in" in notes[-1]
    with pytest.raises(ValueError, match="at least two columns"):
        plane(points._replace(x=points.x[:, :1]))
    with pytest.raises(ValueError, match="at least 20 rows"):
        stand_in(points._replace(x=points.x[:9]), 0)


def test_the_published_toy_is_as_published() -> None:
    p = published_mixture()
    assert p.weights.tolist() == [0.2, 0.8]
    assert p.means.tolist() == [[-5, -5], [5, 5]]
    assert torch.equal(p.covariances, torch.eye(2, dtype=torch.float64).expand(2, 2, 2))

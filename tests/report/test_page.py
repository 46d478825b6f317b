"""The page of a fitted model: whole, self-contained, and honest about what it shows.

A tiny run of each face is fitted once; what is tested is the page, not the model.
"""

from __future__ import annotations

import re
import warnings
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from energyscape.densities import GaussianMixture
from energyscape.families import DDPM, EBM, EDM, NCSN, ScoreModel
from energyscape.families.walks import walker
from energyscape.models import FunctionDenoiser, FunctionEnergy, MixtureOfGaussians
from energyscape.report import (
    bound,
    build,
    chains,
    evaluations,
    faces,
    ladder,
    levels,
    plane,
    quality,
)
from energyscape.report.page import render
from energyscape.report.subject import Subject, affordable, columns_of, look_at

VOID = {"meta", "br", "img", "link", "input", "hr"}
SMALL: dict[str, Any] = {"max_steps": 6, "width": 16, "blocks": 1, "random_state": 0}


class Balanced(HTMLParser):
    """Fails on a tag that is closed without being open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1:] == [tag], f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass


def table() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "weight <kg>": rng.normal(70, 10, 120),
            "children": rng.integers(0, 5, 120),
            "town": rng.choice(["Ulm & Neu-Ulm", "Bonn"], 120),
            "since": [f"20{i % 20 + 10}-03-{i % 27 + 1:02d}" for i in range(120)],
            "planet": ["Earth"] * 120,
        }
    )


@pytest.fixture(scope="module")
def fitted() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 17, (60, 8, 8), dtype=np.uint8)
    plane_points = rng.normal(size=(120, 2))
    energy = EBM(chain_steps=2, **SMALL).fit(plane_points)
    energy.sample(7, steps=11)
    return {
        "table": EDM(**SMALL).fit(table()),
        "pictures": EDM(**SMALL).fit(pictures),
        "plane": DDPM(**SMALL).fit(plane_points),
        "energy": energy,
    }


@pytest.fixture(scope="module")
def pages(fitted: dict[str, Any]) -> dict[str, str]:
    return {name: render(model, f"run <{name}>") for name, model in fitted.items()}


@pytest.mark.parametrize("name", ["table", "pictures", "plane", "energy"])
def test_a_page_is_whole_and_needs_nothing_but_itself(pages: dict[str, str], name: str) -> None:
    text = pages[name]
    parser = Balanced()
    parser.feed(text)
    assert not parser.open
    assert all(image["alt"] for image in parser.images)
    assert "<script" not in text
    assert f"run &lt;{name}&gt;" in text
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)[^\"]*\"", text)
    assert len(text) < 3_000_000


def sections_of(text: str) -> list[str]:
    return re.findall(r"<h2[^>]*>([^<]*)</h2>", text)


def test_each_face_shows_what_it_has(pages: dict[str, str]) -> None:
    both = {"Samples beside data", "Training", "Calibration", "Most and least typical"}
    for text in pages.values():
        assert both <= set(sections_of(text))
    assert "Levels of noise" in sections_of(pages["table"])
    assert "principal directions" in pages["table"]
    assert "principal directions" not in pages["plane"]
    for strip in ("Forward: held-out pictures", "Backward, from noise to pictures"):
        assert strip in pages["pictures"]
        assert strip not in pages["table"]
    assert "The bound, term by term" in sections_of(pages["plane"])
    assert "The bound, term by term" not in sections_of(pages["table"])
    assert {"The landscape", "Levels of noise"} <= set(sections_of(pages["plane"]))
    wanted = {"The landscape", "Energies and chains", "Chains and modes"}
    assert wanted <= set(sections_of(pages["energy"]))
    assert "Chains and modes" not in sections_of(pages["plane"])
    for told in ("Energies of held-out rows and of samples", "samples minus data"):
        assert told in pages["energy"]
        assert told not in pages["plane"]
    for watched in ("Norm of the gradient", "Gap, data less chains", "Acceptance of the chains"):
        assert watched in pages["energy"]
    assert "Norm of the gradient" in pages["table"]
    assert "Levels of noise" not in sections_of(pages["energy"])


def test_log_z_and_its_bounds_are_on_the_page(
    fitted: dict[str, Any], pages: dict[str, str]
) -> None:
    known = fitted["energy"].info_["log_z"]
    assert known["lower"] <= known["estimate"] <= known["upper"]
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", pages["energy"])
    for key in ("lower", "estimate", "upper"):
        assert cells[cells.index(key) + 1] == f"{known[key]:,.3f}"


def test_samples_of_a_table_are_measured_on_the_page(fitted: dict[str, Any]) -> None:
    """Pair trends and use for training with intervals that hold them, columns the worst first."""
    est, data = fitted["table"], table()
    drawn = est.sample(100, random_state=0, steps=4)
    x, drawn_x = (est.encode(part).numpy() for part in (data, drawn))
    section = quality.quality(Subject(est, "EDM", data, x, drawn, drawn_x))
    assert section is not None
    assert "Nothing on privacy" in section.text
    whole, columns = section.tables
    told = {row[0]: row for row in whole.rows}
    assert {"pair trends", "train on drawn", "two sample accuracy", "coverage"} <= set(told)
    for name in ("pair trends", "two sample accuracy", "column shapes"):
        value, (low, high) = told[name][1], told[name][2].split(" to ")
        assert float(low) <= float(value) <= float(high)
    worst = [float(row[1]) for row in columns.rows]
    assert worst == sorted(worst, reverse=True)
    assert {row[0] for row in columns.rows} == {c.name for c in est.schema_.modelled}


def well(rows: int = 300) -> tuple[Subject, GaussianMixture]:
    """A subject whose model is a known mixture of two Gaussians in four dimensions."""
    means = torch.tensor([[-3.0, 0.0, 0.0, 0.0], [3.0, 0.0, 1.0, 0.0]])
    p = GaussianMixture.isotropic(means, 0.5, [0.3, 0.7])
    x = p.sample(rows, torch.Generator().manual_seed(0)).numpy()
    frame = pl.DataFrame({name: x[:, i] for i, name in enumerate("abcd")})
    est = SimpleNamespace(
        model_=MixtureOfGaussians(p),
        _double=lambda: MixtureOfGaussians(p),
        _kernel=lambda name: walker(name, 1.6, 4),
        calibration_={"chains": x[:64]},
        facts_={"scale": 1.6, "event_shape": [4]},
        codec_=SimpleNamespace(decode=lambda z: pl.DataFrame(z, schema=list("abcd"))),
        schema_=SimpleNamespace(modelled=[SimpleNamespace(name=name) for name in "abcd"]),
        data_kind_="table",
    )
    return Subject(est, "EBM", frame, x, frame, x), p


def test_the_landscape_of_many_columns_is_a_cut_through_the_density(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Along the plane's axes the picture is the closed form up to one constant."""
    subject, p = well()
    seen: dict[str, Any] = {}

    def keep(x: Any, y: Any, value: Any, names: Any, alt: str, *, marks: Any = None) -> str:
        seen.update(x=x, y=y, value=value, marks=marks)
        return ""

    monkeypatch.setattr(plane.clouds, "landscape", keep)
    section = plane.landscape(subject, np.zeros((1, 4)))
    assert section is not None
    assert "a cut through the density" in section.items[0].caption
    assert seen["marks"] is None
    flat = subject.data_x
    axes = np.linalg.svd(flat - flat.mean(0), full_matrices=False)[2][:2]
    u, v = np.meshgrid(seen["x"], seen["y"])
    points = flat.mean(0) + u[..., None] * axes[0] + v[..., None] * axes[1]
    truth = p.log_prob(torch.as_tensor(points.reshape(-1, 4))).numpy().reshape(u.shape)
    assert np.ptp(seen["value"] - truth) < 1e-3


def test_modes_and_the_chains_that_never_left_them_are_told() -> None:
    """Two peaks 6 apart at deviation 0.5: found where they are, and hardly ever crossed."""
    subject, p = well()
    found = chains.modes_of(subject)
    assert found is not None
    assert found.points is not None
    height = p.log_prob(torch.as_tensor(found.points))
    assert np.abs(found.points[0] - [3.0, 0.0, 1.0, 0.0]).max() < 1e-3
    assert np.abs(found.points[1] - [-3.0, 0.0, 0.0, 0.0]).max() < 1e-3
    asked: list[str] = []
    ask = subject.estimator._kernel
    subject.estimator._kernel = lambda name: (asked.append(name), ask(name))[1]
    section = chains.chains(subject, found, seconds=0.0)
    assert asked == ["mala"], "the family knows the steps of its own chains"
    assert section is not None
    assert "modes never left" in section.text
    table = section.tables[0].rows
    assert [row[1] for row in table] == ["peak", "peak"]
    assert table[1][0] == f"{float(height[1] - height[0]):.2f}"
    assert sum(float(row[2].rstrip("%")) for row in table) == pytest.approx(100, abs=1)
    hole = subject.estimator.__class__(
        **{**vars(subject.estimator), "_double": lambda: FunctionEnergy(lambda x: -x.sum(1).exp())}
    )
    none = chains.modes_of(subject._replace(estimator=hole))
    assert none is not None
    assert none.modes is None
    assert "settled" in none.why


def test_names_from_the_data_are_escaped(pages: dict[str, str]) -> None:
    assert "weight <kg>" not in pages["table"]
    assert "weight &lt;kg&gt;" in pages["table"]
    assert "Ulm &amp; Neu-Ulm" in pages["table"]


def test_settings_that_differ_come_with_their_default(pages: dict[str, str]) -> None:
    assert "<td>max_steps</td><td>6</td><td>4,000</td>" in pages["table"].replace("\n", "")


def test_data_and_samples_are_shown_with_their_encoding(fitted: dict[str, Any]) -> None:
    subject = look_at(fitted["table"])
    assert len(subject.data) == len(subject.data_x) == 12
    assert len(subject.samples) == len(subject.samples_x)
    assert subject.names == ["weight <kg>", "children", "town", "since"]
    columns = columns_of(subject.data, fitted["table"].schema_)
    assert columns["children"].dtype.kind in "iu"
    assert columns["town"].dtype.kind == "U"
    assert columns["since"].min() >= 2010
    assert columns["since"].max() < 2031


def test_build_writes_into_the_run_or_where_it_is_told(
    fitted: dict[str, Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    fitted["plane"].save(run)
    assert build(run) == run / "report.html"
    assert (run / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [p.name for p in run.iterdir() if p.name.startswith(".")] == []
    with pytest.raises(ValueError, match="there is no folder"):
        build(run, tmp_path / "nowhere" / "page.html")


def test_the_last_samples_of_a_run_are_told(fitted: dict[str, Any], pages: dict[str, str]) -> None:
    """Those drawn before the page, not those that it draws; of an energy not sampled no table."""
    text = pages["energy"]
    table = text[text.index("last samples") :].partition("</table>")[0].replace("\n", "")
    for key, value in (("chains", "7"), ("steps", "11"), ("sampler", "mala")):
        assert f"<td>{key}</td><td>{value}</td>" in table
    assert "<td>verdict</td>" in table
    assert fitted["energy"].sampling_["chains"] == 7
    assert "last samples" not in pages["plane"]
    section = faces.energies(look_at(fitted["energy"], seconds=0.1))
    assert section is not None
    assert "last samples" not in [table.head[0] for table in section.tables]


def test_a_run_without_calibration_rows_says_so() -> None:
    model = EDM(calibration_fraction=0, **SMALL).fit(np.random.default_rng(0).normal(size=(50, 2)))
    with pytest.raises(ValueError, match="calibration_fraction > 0"):
        render(model, "run")


def test_the_potential_of_a_blurred_mixture_is_its_log_density() -> None:
    """The score of a closed form, integrated over the plane, gives its log-density back."""
    p = GaussianMixture.isotropic(torch.tensor([[-1.0, 0.0], [1.0, 0.5]]), 0.4, [0.3, 0.7])
    axis = np.linspace(-2.5, 2.5, 81)
    grid = torch.as_tensor(np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2))
    field = p.score(grid, 0.2).numpy().reshape(81, 81, 2)
    step = float(axis[1] - axis[0])
    found = plane.integrate(field, step, step)
    truth = p.log_prob(grid, 0.2).numpy().reshape(81, 81)
    error = found.value - truth
    near = truth > truth.max() - 10
    assert np.ptp(error[near]) < 0.05
    assert found.left_over < 0.01


def test_a_field_that_turns_is_told_from_a_gradient() -> None:
    axis = np.linspace(-1, 1, 21)
    x, y = np.meshgrid(axis, axis)
    found = plane.integrate(np.stack([-y, x], axis=-1), 0.1, 0.1)
    assert found.left_over > 0.9


def test_work_is_cut_to_the_time_there_is() -> None:
    done: list[int] = []
    assert affordable(done.append, 16, 400, 1e9) == 400
    assert affordable(done.append, 16, 400, 0.0) == 16
    assert affordable(done.append, 16, 5, 1.0) == 5
    assert done == [16, 16, 5]


def test_score_fields_and_the_descent_of_a_ladder() -> None:
    """NCSN on points of a plane: four fields, a panel for seven levels and the data, a line a level
    with its loss and its chains' spread; a score field of one level has one field and a landscape."""
    points = np.random.default_rng(0).normal(size=(120, 2))
    model = NCSN(levels=[4.0, 2.0, 1.0, 0.5], **SMALL).fit(points)
    subject = look_at(model, seconds=0.1)
    fields = ladder.score_fields(subject)
    assert fields is not None
    assert fields.items[0].caption.endswith("blurred to the level.")
    down = ladder.descent(subject, seconds=0.1)
    assert down is not None
    assert "4 levels" in down.text
    assert [row[0] for row in down.tables[0].rows] == ["4", "2", "1", "0.5"]
    assert all(float(row[1]) > 0 and float(row[3]) > 0 for row in down.tables[0].rows)
    single = ScoreModel(network="field", **SMALL).fit(points)
    subject = look_at(single, seconds=0.1)
    fields = ladder.score_fields(subject)
    assert fields is not None
    assert fields.items[0].caption.endswith("held-out rows.")
    assert plane.landscape(subject, seconds=0.1) is not None
    assert ladder.descent(subject) is None


def test_the_descent_of_pictures_is_a_strip() -> None:
    pictures = np.random.default_rng(0).integers(0, 17, (60, 4, 4), dtype=np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model = NCSN(levels=3, **SMALL).fit(pictures)
    down = ladder.descent(look_at(model, seconds=0.1), seconds=0.1)
    assert down is not None
    assert "Five chains" in down.items[0].caption


def test_the_strips_run_from_the_picture_to_noise_and_back() -> None:
    """The forward strip begins with the pictures themselves and ends in noise of unit variance, for
    which grey levels at both ends are likeliest; the backward one has states above expectations."""
    pictures = np.random.default_rng(0).integers(0, 17, (60, 8, 8), dtype=np.uint8)
    subject = look_at(DDPM(**SMALL, num_steps=25).fit(pictures), seconds=0.1)
    shown: list[np.ndarray] = []

    def keep(pictures: np.ndarray, columns: int, alt: str, **_: Any) -> str:
        shown.append(pictures.reshape(-1, columns, *pictures.shape[1:]))
        return ""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(levels.sheets, "picture_html", keep)
        assert levels.levels(subject) is not None
    forward, _, backward = shown
    truth = subject.data[:3].astype(float) * (255 / subject.estimator.codec_.levels)
    assert forward.shape[:2] == (3, 10)
    assert np.abs(forward[:, 0].reshape(truth.shape) - truth).max() < 20
    assert np.isin(forward[:, -1], (0, 255)).mean() > 0.25
    assert backward.shape[:2] == (6, 10)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned"])
def test_the_bound_of_a_run_adds_up(variance: str) -> None:
    """The parts sum to what `bound` says, at 5 standard errors over rows; a linear model of each
    coordinate beats a network of six steps."""
    points = np.random.default_rng(0).normal([5.0, 0.0], [3.0, 1.0], size=(400, 2))
    loss = "hybrid" if variance == "learned" else "simple"
    model = DDPM(**SMALL, variance=variance, loss=loss, num_steps=50).fit(points)
    terms = model.bound_terms(points[:100], most_steps=20, random_state=1)
    assert terms.per_step.shape == (100, len(terms.steps)) == terms.reference.shape
    gap = terms.value + model.bound(points[:100], random_state=1).value
    assert abs(gap.mean()) < 5 * gap.std() / 10
    if variance != "learned":  # which is wider, and right to be after six steps
        assert terms.reference.mean() < terms.per_step.mean()
    section = bound.bound(look_at(model, seconds=0.1), most_steps=10)
    assert section is not None
    total, parts = section.tables[0].rows[-1], section.tables[0].rows[:-1]
    assert float(total[1]) == pytest.approx(sum(float(row[1]) for row in parts), rel=1e-2)


def test_more_evaluations_come_closer_to_the_data() -> None:
    """With the exact denoiser of the data's law, samplers reach the floor of held-out rows."""
    points = np.random.default_rng(0).normal(size=(3000, 2)) * [1.0, 3.0]
    model = EDM(**SMALL).fit(points)
    law = GaussianMixture.isotropic(torch.zeros(1, 2), 1.0)
    model.model_ = FunctionDenoiser(law.denoise)
    model.model_.register_parameter("device", torch.nn.Parameter(torch.zeros(())))
    subject = look_at(model, seconds=0.1)
    section = evaluations.evaluations(subject, seconds=0.1)
    assert section is not None
    heun = next(row for row in section.tables[0].rows if row[0] == "heun")
    assert float(heun[4]) < float(heun[1])
    assert float(heun[4]) < 0.25
    few = EDM(**SMALL).fit(points[:200])
    assert evaluations.evaluations(look_at(few, seconds=0.1)) is None

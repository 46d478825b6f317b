"""Pieces of a page: grids keep every pixel, figures carry their words and no address."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from energyscape.report import canvas, clouds, picture_grid, plots, save_picture_grid


@pytest.mark.parametrize("shape", [(5, 4, 6), (5, 4, 6, 1), (5, 4, 6, 3), (5, 4, 6, 4)])
def test_a_grid_holds_every_picture_unchanged(shape: tuple[int, ...]) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    sheet = picture_grid(pictures, columns=2, gap=2)
    whole = pictures if pictures.ndim == 4 else pictures[..., None]
    assert sheet.shape == (3 * 6 + 2, 2 * 8 + 2, whole.shape[3])
    for i, picture in enumerate(whole):
        top, left = 2 + (i // 2) * 6, 2 + (i % 2) * 8
        assert np.array_equal(sheet[top : top + 4, left : left + 6], picture)


@pytest.mark.parametrize(
    "bad, columns",
    [
        (np.zeros((2, 4, 4)), None),
        (np.zeros((2, 4), np.uint8), None),
        (np.zeros((2, 4, 4, 2), np.uint8), None),
        (np.zeros((0, 4, 4), np.uint8), None),
        (np.zeros((2, 4, 4), np.uint8), 0),
    ],
)
def test_what_is_no_grid_is_refused(bad: np.ndarray, columns: int | None) -> None:
    with pytest.raises(ValueError, match=r"grid"):
        picture_grid(bad, columns)


def test_a_saved_grid_is_enlarged_by_a_whole_factor(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (4, 8, 8), dtype=np.uint8)
    path = save_picture_grid(pictures, tmp_path / "grid.png", smallest=100)
    with Image.open(path) as image:
        saved = np.asarray(image)
    sheet = picture_grid(pictures)[..., 0]
    factor = saved.shape[0] // sheet.shape[0]
    assert factor >= 5
    assert np.array_equal(saved, sheet.repeat(factor, 0).repeat(factor, 1))


def figures() -> dict[str, str]:
    rng = np.random.default_rng(0)
    x, words = rng.normal(size=100), rng.choice(["a<b", "c"], size=100)
    columns = {
        "x & y": x,
        "n": rng.integers(0, 5, 100),
        "word": words,
        "blank": np.full(100, np.nan),
    }
    matrix = np.corrcoef(rng.normal(size=(3, 50)))
    grid = np.linspace(-1, 1, 20)
    alt = 'a figure with "quotes" & <marks>'
    line = ([1.0, 2.0, 3.0], [3.0, 2.0, 1.0])
    return {
        "curves": plots.curves([("Loss", {"training": line})], "step", alt, log_y=(True,)),
        "histograms": plots.histograms({"Data": x, "Samples": x + 1}, "value", alt),
        "constant": plots.histograms({"Data": np.ones(5), "Samples": np.ones(5)}, "value", alt),
        "marginals": plots.marginals(columns, columns, alt),
        "correlations": plots.correlations(matrix, matrix, ["a", "b", "c"], alt),
        "quantiles": plots.quantiles(rng.random(50), alt),
        "scatters": clouds.scatters([("Data", rng.normal(size=(50, 2)))] * 5, alt),
        "landscape": clouds.landscape(grid, grid, -np.add.outer(grid**2, grid**2), ["x", "y"], alt),
    }


def test_figures_are_inline_named_and_take_the_ink_of_the_page() -> None:
    for name, text in figures().items():
        assert re.fullmatch(r"<svg.*</svg>\s*", text, flags=re.DOTALL), name
        assert 'aria-label="a figure with &quot;quotes&quot; &amp; &lt;marks&gt;"' in text, name
        assert "currentColor" in text, name
        assert canvas.INK not in text, name
        addresses = {a for a in re.findall(r"https?://[^\"'\s<]+", text) if "w3.org" not in a}
        assert not addresses, name


def test_few_values_of_a_logarithmic_axis_are_its_ticks_in_plain_numbers() -> None:
    line = ([2.0, 4.0, 8.0, 26.0, 27.0, 1024.0], [1.0] * 6)
    text = plots.curves([("cost", {"sliced": line})], "dimension", "cost", log_x=True)
    shown = re.findall(r"<text[^>]*>([^<]*)</text>", text)
    assert [word for word in ("2", "4", "8", "26", "1,024") if word not in shown] == []
    assert "27" not in shown
    assert not any("times" in word or "^" in word for word in shown)


def test_the_same_figure_is_the_same_text() -> None:
    values = {"Data": np.arange(9.0), "Samples": np.arange(9.0)}
    first, second = (plots.histograms(values, "value", "twice") for _ in range(2))
    assert first == second


def test_what_the_room_offers_is_there_and_in_order() -> None:
    from energyscape import report

    assert report.__all__ == sorted(report.__all__)
    assert all(callable(getattr(report, name)) for name in report.__all__)
    with pytest.raises(AttributeError, match="no attribute 'pages'"):
        report.pages  # noqa: B018

"""The page: sections in their order, set in one HTML file with everything inside it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

import energyscape
from energyscape.families import AnomalyDetector, load
from energyscape.report import (
    bound,
    chains,
    detector,
    evaluations,
    faces,
    ladder,
    levels,
    plane,
    quality,
    sections,
    strips,
)
from energyscape.report.sections import number
from energyscape.report.subject import Subject, look_at

__all__ = ["build", "render"]


class Fact(NamedTuple):
    """A number at the head of the page."""

    name: str
    value: str


def build(run: Path, out: Path | None = None) -> Path:
    """Write one self-contained HTML page about a fitted model.

    Parameters
    ----------
    run : Path
        The folder `fit` wrote.
    out : Path, optional
        The file to write, ``report.html`` in the folder when not given; replaced if it is there.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    ArtifactError
        If the folder holds no fitted model, or a damaged one.
    ValueError
        If the folder of `out` does not exist.
    """
    run = Path(run)
    out = run / "report.html" if out is None else Path(out)
    if not out.parent.is_dir():
        raise ValueError(f"cannot write {out}: there is no folder {out.parent}; create it first")
    text = render(load(run), run.resolve().name)
    aside = out.with_name(f".{out.name}.part")
    aside.write_text(text, encoding="utf-8")
    aside.replace(out)
    return out


def render(estimator: Any, name: str, *, seed: int = 0) -> str:
    """The page of a fitted estimator as one string of HTML."""
    start = time.perf_counter()
    if isinstance(estimator, AnomalyDetector):
        facts = [Fact(*pair) for pair in detector.facts(estimator)]
        shown = detector.found(estimator)
        lead = _lead(type(estimator).__name__, estimator)
        return _page(name, estimator, lead, facts, shown, start)
    # Before the page draws samples of its own, which are not what the user asked for.
    sampling = getattr(estimator, "sampling_", None)
    subject = look_at(estimator, seed=seed)
    modes = chains.modes_of(subject)
    found = [
        sections.samples(subject),
        quality.quality(subject),
        plane.landscape(subject, None if modes is None else modes.points),
        ladder.score_fields(subject),
        sections.training(subject),
        levels.levels(subject),
        bound.bound(subject),
        evaluations.evaluations(subject),
        ladder.descent(subject),
        faces.energies(subject, sampling),
        chains.chains(subject, modes),
        strips.strips(subject),
        sections.calibration(subject),
        sections.rows(subject),
        sections.summary(subject),
    ]
    if hasattr(type(estimator), "sampling_"):
        estimator._sampling = sampling
    shown = [section for section in found if section is not None]
    lead = _lead(subject.family, estimator)
    return _page(name, estimator, lead, _facts(subject), shown, start)


def _page(
    name: str,
    estimator: Any,
    lead: str,
    facts: list[Fact],
    shown: list[sections.Section],
    start: float,
) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("page.html").render(
        name=name,
        family=type(estimator).__name__,
        lead=lead,
        facts=facts,
        sections=shown,
        version=energyscape.__version__,
        seconds=f"{time.perf_counter() - start:.1f}",
        provenance=_provenance(estimator),
    )


def _lead(family: str, est: Any) -> str:
    if est.data_kind_ == "pictures":
        height, width, channels = est.codec_.shape
        colour = "grey" if channels == 1 else f"{channels}-channel"
        what = f"{colour} pictures of {height} × {width}"
    else:
        modelled = len(est.schema_.modelled)
        what = f"a table of {modelled} modelled column{'s' if modelled != 1 else ''}"
    source = est.info_.get("data", {}).get("name")
    return f"{family} on {what}" + (f": {source}" if source else "")


def _facts(subject: Subject) -> list[Fact]:
    est = subject.estimator
    info = est.info_
    facts = [Fact("family", subject.family)]
    parameters = sum(p.numel() for p in est.model_.parameters())
    if parameters:
        facts.append(Fact("parameters", f"{parameters:,}"))
    if "steps" in info:
        facts.append(Fact("steps", f"{info['steps']:,}"))
    if isinstance(info.get("seconds"), int | float):
        facts.append(Fact("training", _duration(float(info["seconds"]))))
    validation = [
        h["validation_loss"] for h in est.history_ if h.get("validation_loss") is not None
    ]
    if validation:
        facts.append(Fact("validation loss", number(float(validation[-1]))))
    rows = info["rows"]
    facts.append(Fact("rows trained on", f"{rows['train']:,}"))
    facts.append(Fact("rows held out", f"{rows['validation'] + rows['calibration']:,}"))
    if info.get("stop_reason", "finished") != "finished":
        facts.append(Fact("stopped early", str(info["stop_reason"])))
    return facts


def _duration(seconds: float) -> str:
    """A time as people say it.

    >>> _duration(12.34), _duration(125.0), _duration(7300.0)
    ('12.3 s', '2 min 5 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _provenance(est: Any) -> list[Fact]:
    """What of the record is short enough to print: seed, precision, versions."""
    shown = []
    for key in ("seed", "precision", "device", "world_size", "threads"):
        if est.info_.get(key) is not None:
            shown.append(Fact(key.replace("_", " "), str(est.info_[key])))
    versions = est.info_.get("versions")
    if isinstance(versions, dict):
        shown += [Fact(str(key), str(value)) for key, value in versions.items()]
    return shown

"""The sections of a report, one function each: what was learned, in plots and tables.

A section is plain HTML pieces with words around them; a function returns None where its family has
nothing to show.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from energyscape.report import clouds, plots, sheets
from energyscape.report.subject import Subject, affordable, columns_of, take

__all__ = [
    "Item",
    "Section",
    "Table",
    "calibration",
    "cells",
    "number",
    "rows",
    "samples",
    "stretched",
    "summary",
    "training",
    "what_was_read",
]


class Item(NamedTuple):
    """A figure: markup and what to see in it."""

    markup: str
    caption: str


class Table(NamedTuple):
    """A small table; cells are escaped by the template."""

    head: list[str]
    rows: list[list[str]]
    caption: str = ""


class Section(NamedTuple):
    """A titled part of the page."""

    title: str
    text: str
    items: list[Item]
    tables: list[Table]


def number(value: Any) -> str:
    """A value as people write it.

    >>> number(0.000123456), number(1234567), number(None), number(2.0)
    ('0.0001235', '1,234,567', '–', '2')
    """
    if value is None:
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if isinstance(value, float | np.floating):
        return f"{value:.4g}" if np.isfinite(value) else "–"
    return str(value)


def summary(subject: Subject) -> Section:
    """What was read, what was left out, and every setting that differs from its default."""
    return what_was_read(subject.estimator)


def what_was_read(est: Any) -> Section:
    """The same of an estimator, or of an anomaly detector."""
    from energyscape.families import settings_of

    tables = []
    if est.data_kind_ == "table":
        shown = [[c.name, c.kind, c.describe()] for c in est.schema_]
        caption = ""
        if len(shown) > 40:
            caption = f"The first 40 of {len(shown)} columns."
        tables.append(Table(["column", "kind", "what was seen"], shown[:40], caption))
    else:
        shape = est.codec_.shape
        tables.append(
            Table(
                ["pictures", ""],
                [
                    ["height × width", f"{shape[0]} × {shape[1]}"],
                    ["channels", str(shape[2])],
                    ["grey levels", str(est.codec_.levels)],
                ],
            )
        )
    values = est.get_params(deep=False)
    known = {setting.name: setting for setting in settings_of(type(est))}
    settings = [
        [name, number(value), "" if value == known[name].default else number(known[name].default)]
        for name, value in values.items()
        if name in known
    ]
    settings.sort(key=lambda row: (not row[2], row[0]))
    tables.append(Table(["setting", "value", "default, where it differs"], settings))
    return Section("What was learned from", _left_out(est), [], tables)


def _left_out(est: Any) -> str:
    notes = [f"{name}: {why}" for name, why in est.schema_.left_out] if est.schema_ else []
    notes += [str(note) for note in est.info_.get("notes", [])]
    notes = list(dict.fromkeys(notes))
    if not notes:
        return "Every column entered the density." if est.data_kind_ == "table" else ""
    return "Left out or decided while reading: " + "; ".join(notes) + "."


def training(subject: Subject) -> Section | None:
    """Loss, validation loss, gradient norm and learning rate over the steps."""
    history = subject.estimator.history_
    if not history:
        return None

    def line(key: str) -> tuple[list[float], list[float]]:
        points = [(h["step"], h[key]) for h in history if h.get(key) is not None]
        return [float(p[0]) for p in points], [float(p[1]) for p in points]

    alt = "Training and validation loss, and the learning rate, against the training step"
    rate = line("learning_rate")
    last = [("Learning rate", {"learning rate": rate})] if rate[0] else []
    if line("energy_gap")[0]:
        energies = {"Data": line("energy_data"), "chains": line("energy_chains")}
        panels = [
            ("Energy, nats", energies),
            ("Gap, data less chains, nats", {"gap": line("energy_gap")}),
        ]
        if line("acceptance")[0]:
            panels.append(("Acceptance of the chains", {"acceptance": line("acceptance")}))
        watch = [("Norm of the gradient", {"norm": line("grad_norm")}), *last]
        if line("validation_loss")[0]:
            held = {"validation": line("validation_loss")}
            watch.insert(0, ("Validation: score matching", held))
        caption = (
            "The gap between the energies is the contrastive loss; its value means little, its "
            "gradient is that of the likelihood. It hovers about zero while the chains follow the "
            "model; a gap that only grows is a divergence."
        )
        below = (
            "Held-out rows are judged by a score-matching loss, which needs no Z. Gradients beyond a "
            "norm of 1 are cut back to it."
        )
        logs = tuple(title.startswith("Norm") for title, _ in watch)
        return Section(
            "Training",
            "",
            [
                Item(plots.curves(panels, "step", alt), caption),
                Item(plots.curves(watch, "step", "What is watched", log_y=logs), below),
            ],
            [],
        )
    losses = {"training": line("loss"), "validation": line("validation_loss")}
    losses = {name: xy for name, xy in losses.items() if xy[0]}
    values = np.concatenate([np.asarray(y) for _, y in losses.values()] or [np.ones(1)])
    log_loss = bool((values > 0).all() and values.max() > 20 * values.min())
    panels = [("Loss", losses), *last]
    if line("grad_norm")[0]:
        panels.insert(1, ("Norm of the gradient", {"norm": line("grad_norm")}))
    markup = plots.curves(panels, "step", alt, log_y=(log_loss, bool(line("grad_norm")[0])))
    return Section("Training", "", [Item(markup, _verdict(losses))], [])


def _verdict(losses: dict[str, tuple[list[float], list[float]]]) -> str:
    if "validation" not in losses or len(losses["validation"][1]) < 2:
        return "The loss of the rows it trained on."
    steps, values = losses["validation"]
    best = int(np.argmin(values))
    return (
        f"Validation rows are held out. Their loss was lowest at step {steps[best]:,.0f} "
        f"({values[best]:.4g}) and ended at {values[-1]:.4g}."
    )


def samples(subject: Subject) -> Section:
    """Samples beside data that the model has not trained on."""
    if subject.pictures:
        return _picture_samples(subject)
    names = subject.names
    schema = subject.estimator.schema_
    data, drawn = columns_of(subject.data, schema), columns_of(subject.samples, schema)
    shown = names[:24]
    alt = "Histograms of each column, data and samples over one another"
    items = [
        Item(
            plots.marginals({n: data[n] for n in shown}, {n: drawn[n] for n in shown}, alt),
            "Each column by itself: held-out data (filled) and samples (line)."
            + ("" if len(names) <= 24 else f" The first 24 of {len(names)} columns."),
        )
    ]
    a, b = subject.data_x.reshape(len(subject.data_x), -1), subject.samples_x
    b = b.reshape(len(b), -1)
    numeric = [n for n in names if data[n].dtype.kind in "fiu"]
    if len(names) == 2 and len(numeric) == 2:
        pair = [
            (title, np.stack([rows[n].astype(float) for n in names], axis=1))
            for title, rows in (("Data", data), ("Samples", drawn))
        ]
        alt = "Scatter of the two columns, data and samples"
        items.insert(0, Item(clouds.scatters(pair, alt, names=names), "Both columns together."))
    elif len(names) > 2 and a.shape[1] <= 400:
        items.append(_pairs_of_columns(subject, a, b))
    text = f"{len(a)} held-out rows beside {len(b)} samples."
    return Section("Samples beside data", text, items, [])


def _pairs_of_columns(subject: Subject, a: np.ndarray, b: np.ndarray) -> Item:
    """For each pair of columns the strongest correlation between what they are encoded as."""
    groups: dict[str, list[int]] = {}
    for name, where in subject.estimator.codec_.groups:
        groups.setdefault(name, []).extend(range(*where.indices(a.shape[1])))
    labels = list(groups)[:40]
    first, second = _correlation(a), _correlation(b)
    one, two = np.eye(len(labels)), np.eye(len(labels))
    for i, p in enumerate(labels):
        for j, q in enumerate(labels[:i]):
            block = np.ix_(groups[p], groups[q])
            where = np.unravel_index(np.abs(first[block]).argmax(), first[block].shape)
            one[i, j] = one[j, i] = first[block][where]
            two[i, j] = two[j, i] = second[block][where]
    gap = np.abs(one - two)
    worst, other = divmod(int(gap.argmax()), len(labels))
    caption = (
        "The strongest correlation of the data between each pair of columns, and the same "
        f"correlation among samples. Largest difference {gap.max():.2f}, "
        f"{labels[worst]} with {labels[other]}."
    )
    markup = plots.correlations(one, two, labels, "Correlations of data and of samples")
    return Item(markup, caption)


def _correlation(rows: np.ndarray) -> np.ndarray:
    """Correlations, 0 where a column hardly varies."""
    centred = rows - rows.mean(0)
    scale = np.sqrt((centred**2).mean(0))
    unit = np.where(scale > 1e-3, centred / np.maximum(scale, 1e-3), 0.0)
    return np.asarray(unit.T @ unit / len(rows))


def stretched(subject: Subject, pictures: np.ndarray) -> np.ndarray:
    """Grey levels stretched to 0..255, so that few levels are visible."""
    top = subject.estimator.codec_.levels - 1
    whole = np.asarray(pictures).astype(np.float64) * (255 / top)
    whole = whole[..., None] if whole.ndim == 3 else whole
    return np.round(whole).clip(0, 255).astype(np.uint8)


def _picture_samples(subject: Subject) -> Section:
    count = min(60, len(subject.data), len(subject.samples))
    count = max(count // 10 * 10, min(count, 10))
    data, drawn = stretched(subject, subject.data), stretched(subject, subject.samples)
    items = [
        Item(sheets.picture_html(drawn[:count], 10, f"{count} samples"), "Samples, not chosen."),
        Item(sheets.picture_html(data[:count], 10, f"{count} held-out pictures"), "Held-out data."),
    ]
    near = min(10, count)
    a, b = subject.data_x.reshape(len(subject.data_x), -1), subject.samples_x
    flat = b.reshape(len(b), -1)[:near]
    closest = ((flat[:, None] - a[None]) ** 2).sum(-1).argmin(1)
    pairs = np.concatenate([drawn[:near], data[closest]])
    items.append(
        Item(
            sheets.picture_html(pairs, near, "Samples above their nearest held-out pictures"),
            "Above, samples; below, the held-out picture nearest to each.",
        )
    )
    levels = {"Data": data.ravel() / 255.0, "Samples": drawn.ravel() / 255.0}
    alt = "How often each brightness occurs in data and samples"
    items.append(Item(plots.histograms(levels, "brightness", alt, bins=17), "Brightness."))
    return Section("Samples beside data", "", items, [])


def calibration(subject: Subject, *, seconds: float = 3.0) -> Section:
    """Anomaly scores of held-out rows against those of samples."""
    est = subject.estimator
    held_out = np.asarray(est.calibration_["anomaly_scores"], dtype=np.float64)
    total = len(subject.samples_x)
    count = affordable(
        lambda n: est.anomaly_score(take(subject.samples, range(n))), 16, total, seconds
    )
    some = take(subject.samples, range(count))
    scores, p_values = np.asarray(est.anomaly_score(some)), np.asarray(est.p_values(some))
    both = {"Data": held_out, "Samples": scores}
    rare = float((p_values <= 0.05).mean())
    smallest = 1 / (len(held_out) + 1)
    text = (
        f"A row's p-value is the share of the {len(held_out):,} calibration rows, which trained "
        f"nothing, that are at least as anomalous; the smallest possible is {smallest:.2g}. "
        f"Of {count} samples {rare:.1%} are at or below 0.05."
    )
    items = [
        Item(
            plots.histograms(both, "anomaly score", "Anomaly scores of data and samples"),
            "If the model drew from the data's law, both would agree.",
        ),
        Item(
            plots.quantiles(p_values, "p-values of samples against a uniform law"),
            "Above the diagonal: samples are more typical than data. Below: less.",
        ),
    ]
    return Section("Calibration", text, items, [])


def cells(some: Any, schema: Any) -> dict[str, Any]:
    """Columns as they are written in the data, by name."""
    if isinstance(some, np.ndarray):
        return dict(columns_of(some, schema))
    return {column.name: some[column.name].to_list() for column in schema.modelled}


def rows(subject: Subject, *, seconds: float = 3.0) -> Section:
    """The most and the least anomalous of the held-out rows, and what makes them so."""
    est = subject.estimator
    total = len(subject.data_x)
    count = affordable(
        lambda n: est.anomaly_score(take(subject.data, range(n))), 16, total, seconds
    )
    some = take(subject.data, range(count))
    scores, p_values = np.asarray(est.anomaly_score(some)), np.asarray(est.p_values(some))
    order = np.argsort(-scores)
    text = f"Of {count} held-out rows, by anomaly score."
    if subject.pictures:
        pictures = stretched(subject, some)
        most, least = order[:20], order[::-1][:20]
        items = [
            Item(sheets.picture_html(pictures[i], 10, f"The {what} pictures"), caption)
            for i, what, caption in (
                (most, "most anomalous", "Most anomalous, the strangest first."),
                (least, "most typical", "Most typical."),
            )
        ]
        return Section("Most and least typical", text, items, [])
    shown = subject.names[:10]
    columns = cells(some, est.schema_)
    drivers, shares = est.column_contributions(take(some, order[:8]))
    tables = []
    for caption, chosen in (("Most anomalous", order[:8]), ("Most typical", order[::-1][:5])):
        causes = caption == "Most anomalous"
        body = []
        for j, i in enumerate(chosen):
            line = [number(scores[i]), f"{p_values[i]:.3g}"]
            if causes:
                top = np.argsort(-shares[j])[:2]
                line.append(", ".join(f"{drivers[k]} {shares[j][k]:.0%}" for k in top))
            body.append(line + [number(columns[name][int(i)]) for name in shown])
        head = ["anomaly score", "p-value", *(["driven by"] if causes else []), *shown]
        tables.append(Table(head, body, caption))
    return Section("Most and least typical", text, [], tables)

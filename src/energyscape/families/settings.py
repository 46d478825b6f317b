"""Settings have one source: the signature of an estimator's ``__init__``.

Each parameter's annotation carries its type, bounds and description; defaults stand in the signature.
The command line, TOML files, artifacts and the documentation read them off it, and one pydantic model
per family validates them.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

__all__ = ["Setting", "SettingError", "check_settings", "settings_of", "validate_settings"]

MaxSteps = Annotated[int, Field(ge=1, description="optimizer steps")]
BatchSize = Annotated[int, Field(ge=1, description="rows per step")]
RowsAStep = Annotated[
    int | None,
    Field(ge=1, description="rows per step; none: 128 of a table, 64 for a network of pictures"),
]
LearningRate = Annotated[float, Field(gt=0, le=1, description="peak learning rate of Adam")]
EMADecay = Annotated[
    float, Field(ge=0, lt=1, description="decay per step of the average of the weights")
]
Width = Annotated[
    int | None, Field(ge=4, description="units (or channels) of the network; none: by the data")
]
Blocks = Annotated[int | None, Field(ge=1, description="residual blocks; none: by the data")]
Network = Annotated[
    Literal["auto", "mlp", "picture"],
    Field(description="residual perceptron or picture network; auto: by the data"),
]
Dropout = Annotated[float, Field(ge=0, lt=1, description="dropout inside the network's blocks")]
WeightDecay = Annotated[float, Field(ge=0, description="decoupled weight decay of AdamW")]
ValidationFraction = Annotated[
    float, Field(ge=0, lt=1, description="share of rows held out to validate and stop on")
]
CalibrationFraction = Annotated[
    float, Field(ge=0, lt=1, description="share of rows held out for p-values; they train nothing")
]
Patience = Annotated[
    int | None,
    Field(
        ge=1, description="stop after so many validations (of 20) without a better one; none: never"
    ),
]
FalseAlarmRate = Annotated[
    float, Field(gt=0, lt=1, description="share of normal rows that predict() may call anomalous")
]
TimeLimit = Annotated[
    float | None, Field(gt=0, description="seconds to train for, instead of max_steps")
]
# Whole numbers that JSON readers keep; sums with offsets stay within 64 bits.
RandomState = Annotated[
    int | None, Field(ge=0, le=2**53, description="seed; none: drawn, and recorded")
]
Device = Annotated[str, Field(description="auto, cpu, cuda, cuda:1, ...")]
Precision = Annotated[
    Literal["auto", "float32", "bfloat16", "float64"],
    Field(
        description="of training; auto: float32, for large pictures bfloat16 where a trial finds it "
        "much faster; scores are computed in float64 (large pictures float32), and densities "
        "integrate in it"
    ),
]
Label = Annotated[
    str | None,
    Field(
        description="column of classes to condition on, or 'labels' for those the data came with "
        "(folders of pictures, y); none: no classes"
    ),
]
Clip = Annotated[
    Literal["auto", "none", "static", "dynamic"],
    Field(
        description="clipping of estimates to the range of pictures while sampling; auto: pictures "
        "only, dynamic under guidance"
    ),
]
OnDivergence = Annotated[
    Literal["stop", "rollback"],
    Field(
        description="when training diverges: stop and say why, or go back to the last good state and "
        "on at half the learning rate, up to five times"
    ),
]
Spectral = Annotated[
    bool,
    Field(
        description="hold the largest singular value of each layer but the last at 1, so that energies "
        "stay tame for chains (spectral normalisation)"
    ),
]
Normalise = Annotated[
    bool, Field(description="estimate log Z after training, for a log-density in nats")
]
Verbose = Annotated[bool, Field(description="show a progress bar")]


def keep(estimator: object, values: Mapping[str, Any]) -> None:
    """Store the arguments of an ``__init__`` under their names, untouched: ``keep(self, locals())``."""
    for name, value in values.items():
        if name not in ("self", "__class__"):
            setattr(estimator, name, value)


class SettingError(ValueError):
    """A setting that does not exist, or a value outside its bounds."""


class Setting(NamedTuple):
    """One setting of a family, as the command line shows it."""

    name: str
    type: str
    default: Any
    description: str
    bounds: str


def _constructor(cls: type) -> Any:
    """The ``__init__`` that a class has or inherits."""
    return next(vars(c)["__init__"] for c in cls.__mro__ if "__init__" in vars(c))


@cache
def _model(cls: type) -> type[BaseModel]:
    hints = get_type_hints(_constructor(cls), include_extras=True)
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        fields[name] = (hints[name], parameter.default)
    model: type[BaseModel] = create_model(
        f"{cls.__name__}Settings",
        __config__=ConfigDict(extra="forbid", allow_inf_nan=False),
        **fields,
    )
    return model


def _type_name(hint: Any) -> str:
    if get_origin(hint) is Annotated:
        return _type_name(get_args(hint)[0])
    if get_origin(hint) is Literal:
        return " | ".join(map(str, get_args(hint)))
    args = get_args(hint)
    if args:
        return " | ".join(_type_name(a) for a in args)
    return "none" if hint is type(None) else getattr(hint, "__name__", str(hint))


def settings_of(cls: type) -> list[Setting]:
    """The settings of a family, in the order of its signature.

    Examples
    --------
    >>> from energyscape.families import EDM
    >>> settings_of(EDM)[0].name
    'max_steps'
    """
    hints = get_type_hints(_constructor(cls))
    symbols = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    rows = []
    for name, field in _model(cls).model_fields.items():
        bounds = [
            f"{symbols[k]} {getattr(m, k)}"
            for m in field.metadata
            for k in symbols
            if hasattr(m, k)
        ]
        rows.append(
            Setting(
                name,
                _type_name(hints[name]),
                field.default,
                field.description or "",
                ", ".join(bounds),
            )
        )
    return rows


def validate_settings(cls: type, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Coerce and check settings; strings such as "4000" or "none" come from the command line.

    Raises
    ------
    SettingError
        One line naming the setting, with the nearest real name where it does not exist.
    """
    model = _model(cls)
    values = {}
    for name, value in settings.items():
        if name not in model.model_fields:
            near = difflib.get_close_matches(name, model.model_fields, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            known = ", ".join(model.model_fields)
            raise SettingError(f"{cls.__name__} has no setting {name!r}{hint} (known: {known})")
        if isinstance(value, str) and value.strip().lower() in ("none", "null", ""):
            value = value if value in get_args(model.model_fields[name].annotation) else None
        values[name] = value.item() if isinstance(value, np.generic) else value
    try:
        checked = model(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        told = (
            e["msg"].removeprefix("Value error, ") for e in error.errors() if e["loc"][0] == name
        )
        problems = "; ".join(dict.fromkeys(told))
        raise SettingError(
            f"{cls.__name__}: {name}={settings[name]!r} is not possible: {problems}"
        ) from None
    return {name: getattr(checked, name) for name in settings}


def check_settings(cls: type, settings: Mapping[str, Any]) -> None:
    """Refuse settings of an estimator that would have to be coerced: it trains with what it was given.

    Raises
    ------
    SettingError
        As `validate_settings`, and for text or a number with a point in the place of a number.
    """
    for name, checked in validate_settings(cls, settings).items():
        given = settings[name]
        if any(isinstance(m, BeforeValidator) for m in _model(cls).model_fields[name].metadata):
            continue  # reads text wherever it comes from
        text = isinstance(given, str) and not isinstance(checked, str)
        if text or (isinstance(given, float) and type(checked) is int):
            raise SettingError(
                f"{cls.__name__}: {name}={given!r} is not possible: give {checked!r}"
            )

"""`sample`: one call for every sampler, on any denoiser, from noise or from a given state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor

from energyscape.diffusion.multistep import DPMpp2M, UniPC
from energyscape.diffusion.samplers import (
    DDIM,
    Ancestral,
    Clip,
    Euler,
    EulerMaruyama,
    Heun,
    PredictorCorrector,
    Progress,
    Sampler,
    SDEHeun,
    denoise_function,
    initial_noise,
    ladder,
)
from energyscape.models import Denoiser
from energyscape.schedules import Schedule

__all__ = ["SAMPLERS", "named_sampler", "sample"]

SAMPLERS: dict[str, Callable[[], Sampler]] = {
    "ancestral": Ancestral,
    "ddim": DDIM,
    "dpmpp_2m": DPMpp2M,
    "euler": Euler,
    "euler_maruyama": EulerMaruyama,
    "heun": Heun,
    "pc": PredictorCorrector,
    "sde_heun": SDEHeun,
    "unipc": UniPC,
}


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    x_or_shape: Tensor | Sequence[int],
    *,
    sampler: str | Sampler = "heun",
    levels: Tensor | Sequence[float] | None = None,
    schedule: Schedule | None = None,
    steps: int | None = None,
    rng: torch.Generator | None = None,
    label: int | Tensor | None = None,
    clip: Clip | None = None,
    progress: Progress | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Samples of x_0, walked from noise down a ladder of levels.

    Parameters
    ----------
    denoiser : Denoiser
        Guided, labelled and conditioned denoisers are ones too.
    x_or_shape : Tensor of shape (batch, ...) or sequence of int
        The state at the largest level, or the shape of the samples, which then start from
        ``levels[0] * N(0, I)``: levels must reach far above the spread of the data.
    sampler : str or Sampler
        A name of `SAMPLERS`, with settings after a colon (`named_sampler`), or an instance such as
        ``DDIM(eta=0.5)``.
    levels : sequence of float, optional
        Positive, strictly decreasing; the last step goes to 0.
    schedule, steps : Schedule and int, optional
        ``schedule.levels(steps)`` in the place of `levels`.
    rng : torch.Generator, optional
        Needed wherever noise is drawn; on the device of the state.
    label : int or Tensor of shape (batch,), optional
    clip : float, (low, high) or "dynamic", optional
        See `clip_denoised`.
    progress : callable, optional
        Called as ``progress(done, total)`` after each step.
    dtype : torch.dtype, optional
        Of the state when a shape is given; by default that of the denoiser's parameters.

    Returns
    -------
    Tensor of shape (batch, ...)

    Raises
    ------
    ValueError
        For an unknown sampler, a ladder that does not fall, or noise without a generator.

    Examples
    --------
    >>> import torch
    >>> from energyscape.densities import eight_gaussians
    >>> from energyscape.models import FunctionDenoiser
    >>> from energyscape.schedules import EDM
    >>> rng = torch.Generator().manual_seed(0)
    >>> denoiser = FunctionDenoiser(eight_gaussians().denoise)
    >>> x = sample(denoiser, (500, 2), schedule=EDM(), steps=18, rng=rng, dtype=torch.float64)
    >>> bool((x.norm(dim=1).mean() - 2).abs() < 0.05)
    True
    """
    walk = named_sampler(sampler) if isinstance(sampler, str) else sampler
    table = ladder(levels, schedule, steps)
    if isinstance(x_or_shape, Tensor):
        x = x_or_shape
    else:
        parameter = next((p for p in denoiser.parameters() if p.is_floating_point()), None)
        if dtype is None:
            dtype = torch.get_default_dtype() if parameter is None else parameter.dtype
        device = torch.device("cpu") if parameter is None else parameter.device
        x = initial_noise(x_or_shape, table[0], rng, dtype=dtype, device=device)
    if label is not None:
        label = torch.as_tensor(label, device=x.device).expand(x.shape[0])
    return walk(denoise_function(denoiser, label, clip), x, table, rng, progress)


def named_sampler(text: str, others: Sequence[str] = ()) -> Sampler:
    """A sampler by its name, with settings after a colon: ``"ddim:eta=0.5"``, ``"unipc:order=3"``.

    Parameters
    ----------
    text : str
        ``NAME`` or ``NAME:KEY=VALUE,KEY=VALUE``; keys and defaults are those of the sampler's class.
    others : sequence of str
        Further names to tell of where the name is unknown.

    Raises
    ------
    ValueError
        For a name, a key or a value that there is not; the message names those there are.

    Examples
    --------
    >>> named_sampler("ddim:eta=0.5")
    DDIM(eta=0.5)
    """
    name, _, rest = text.partition(":")
    if name not in SAMPLERS:
        names = ", ".join(sorted([*SAMPLERS, *others]))
        raise ValueError(f"unknown sampler {name!r}; choose one of {names}")
    plain = SAMPLERS[name]()
    known = {f.name: getattr(plain, f.name) for f in fields(plain) if f.init}  # type: ignore[arg-type]
    chosen: dict[str, float] = {}
    for part in rest.split(",") if rest else ():
        key, _, value = (word.strip() for word in part.partition("="))
        if key not in known:
            there = ", ".join(f"{k}={v:g}" for k, v in known.items()) or "none"
            raise ValueError(f"sampler {name!r} has no setting {key!r}; its settings are {there}")
        kind = type(known[key])
        try:
            chosen[key] = kind(value)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise ValueError(f"sampler {name!r}: {key}={value!r} is not {what}") from None
    return replace(plain, **chosen)  # type: ignore[type-var]

"""Encoded rows drawn from a fitted family: new ones, and the unknown cells of given ones."""

from __future__ import annotations

import abc
from typing import Any

import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from energyscape.families.bar import ProgressCallback
from energyscape.families.fitted import Fitted

__all__ = ["Drawing", "check_counts"]

_CHUNK = 4096


class Drawing(Fitted, abc.ABC):
    """The faces that draw; a family says how encoded rows are drawn."""

    # -- what a family adds --------------------------------------------------------------------

    @abc.abstractmethod
    def _sample_encoded(
        self,
        n: int,
        rng: torch.Generator,
        *,
        steps: int | None,
        sampler: str | None,
        progress: ProgressCallback | None,
    ) -> Tensor:
        """`n` encoded samples."""

    def _classes(
        self, n: int, label: Any, guidance: float | None, rng: torch.Generator
    ) -> Tensor | None:
        """The class of each sample, None where the model has no classes."""
        what = "label" if label is not None else "guidance"
        if label is not None or guidance is not None:
            able = "edm, ddpm or ncsn" if guidance is not None else "edm, ddpm, ncsn or ebm"
            raise ValueError(
                f"{what} needs a model with classes: fit {able} with label=COLUMN (or "
                "label='labels'); for a value of a column there is given={column: value}"
            )
        return None

    @abc.abstractmethod
    def _sample_conditional(
        self,
        values: Tensor,
        known: Tensor,
        rng: torch.Generator,
        *,
        steps: int | None,
        sampler: str | None,
        classes: Tensor | None,
        guidance: float | None,
        progress: ProgressCallback | None,
    ) -> Tensor:
        """Encoded rows with the known cells as they are and the others drawn."""

    # -- faces ---------------------------------------------------------------------------------

    #: What an energy knows of its last samples.
    _sampling: Any = None

    def _seed(self, random_state: int | None) -> int:
        return int(self.info_["seed"] if random_state is None else random_state)

    def sample_encoded(
        self,
        n_samples: int,
        *,
        label: Any = None,
        guidance: float | None = None,
        random_state: int | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        progress: ProgressCallback | None = None,
    ) -> Tensor:
        """As `sample` of the records, before decoding: a tensor of shape (n_samples, ...)."""
        check_is_fitted(self)
        check_counts(n_samples, steps)
        self._sampling = None
        device = next(self.model_.parameters()).device
        rng = torch.Generator(device).manual_seed(self._seed(random_state) + 104729)
        classes = self._classes(n_samples, label, guidance, rng)
        parts: list[Tensor] = []
        for start in range(0, n_samples, _CHUNK):
            size = min(n_samples - start, _CHUNK)
            extra: dict[str, Any] = {}
            if classes is not None:
                extra = {"classes": classes[start : start + size], "guidance": guidance}
            part = self._sample_encoded(
                size, rng, steps=steps, sampler=sampler, progress=progress, **extra
            )
            parts.append(part.cpu())
        return torch.cat(parts)

    def sample_conditional(
        self,
        values: Tensor,
        known: Tensor,
        *,
        label: Any = None,
        guidance: float | None = None,
        random_state: int | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        progress: ProgressCallback | None = None,
    ) -> Tensor:
        """Encoded rows, the known cells held and the others drawn from the model given them.

        Parameters
        ----------
        values : Tensor of shape (n, ...)
            Encoded rows; what stands in unknown cells is ignored.
        known : bool Tensor of shape (n, ...)
        label, guidance, random_state, steps, progress
            As in `sample`.
        sampler : str, optional
            "langevin" paints around the known cells by annealed Langevin dynamics; any other leaves it
            to the family.

        Raises
        ------
        ValueError
            If the family cannot condition.
        """
        check_is_fitted(self)
        if values.shape != known.shape or list(values.shape[1:]) != self.facts_["event_shape"]:
            raise ValueError(
                f"values and known have the shape (n, *{tuple(self.facts_['event_shape'])}), got "
                f"{tuple(values.shape)} and {tuple(known.shape)}"
            )
        check_counts(len(values), steps)
        self._sampling = None
        device = next(self.model_.parameters()).device
        rng = torch.Generator(device).manual_seed(self._seed(random_state) + 1299709)
        chosen = label is not None or guidance is not None
        classes = self._classes(len(values), label, guidance, rng) if chosen else None
        drawn = self._sample_conditional(
            values.to(device),
            known.to(device),
            rng,
            steps=steps,
            sampler=sampler,
            classes=classes,
            guidance=guidance,
            progress=progress,
        )
        return drawn.cpu()


def check_counts(n: int, steps: int | None, what: str = "n_samples") -> None:
    """Refuse counts below 1."""
    if n < 1:
        raise ValueError(f"{what} must be at least 1, got {n}")
    if steps is not None and steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")

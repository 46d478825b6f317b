"""Records drawn from a fitted family: new ones, and the unknown cells of given ones."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from energyscape.families import conditioning
from energyscape.families.bar import ProgressCallback
from energyscape.families.fitted import Fitted

__all__ = ["Drawing"]

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
            raise ValueError(
                f"{what} needs a model with classes: fit edm, ddpm or ncsn with label=COLUMN (or "
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

    def sample(
        self,
        n_samples: int = 1,
        *,
        given: Mapping[Any, Any] | None = None,
        label: Any = None,
        guidance: float | None = None,
        random_state: int | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        progress: ProgressCallback | None = None,
    ) -> Any:
        """Draw new records.

        Parameters
        ----------
        n_samples : int
        given : mapping, optional
            Columns and what holds for them: a value, ``(">=", 60)`` (also ``> < <= != =``), or a list
            of these. Rows come from the model's conditional law, with given values exact; see
            `energyscape.families.conditioning` for how, and what is guaranteed.
        label : optional
            The class of all samples, or of each; for models fitted with the setting ``label``.
        guidance : float, optional
            Weight of classifier-free guidance: 1 (the default) draws from the class, more exaggerates
            what is typical of it.
        random_state : int, optional
            Seed; the estimator's own by default.
        steps : int, optional
            Steps of the sampler; the family's default otherwise.
        sampler : str, optional
            Another sampler than the family's default.
        progress : callable, optional

        Returns
        -------
        array, DataFrame or pictures
            The kind of data fitted, in original units.
        """
        check_is_fitted(self)
        how: dict[str, Any] = {"steps": steps, "sampler": sampler, "progress": progress}
        how |= {"label": label, "guidance": guidance}
        if given:
            _check_counts(n_samples, steps)
            seed = self._seed(random_state)
            drawn = conditioning.sample_given(self, given, n_samples, seed=seed, **how)
            return self._as_fitted(drawn)
        return self.decode(self.sample_encoded(n_samples, random_state=random_state, **how))

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
        """As `sample`, before decoding: a tensor of shape (n_samples, ...)."""
        check_is_fitted(self)
        _check_counts(n_samples, steps)
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
        _check_counts(len(values), steps)
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

    def impute(
        self,
        X: Any,
        draws: int = 1,
        *,
        random_state: int | None = None,
        steps: int | None = None,
        progress: ProgressCallback | None = None,
    ) -> Any:
        """Fill blanks in by draws given the rest of their row.

        Parameters
        ----------
        X : array, DataFrame or Dataset of a table; masked array of pictures
            Blanks of columns that the model left out stay blank. Of pictures masked pixels are drawn.
        draws : int
            How many completed copies; their differences tell how sure the model is.
        random_state, steps, progress
            As in `sample`.

        Returns
        -------
        the kind of data given, or for ``draws > 1`` a list
            Cells that were not blank are as they were.

        Raises
        ------
        ValueError
            If the family cannot condition, or there is no draw to make.

        Examples
        --------
        >>> import numpy as np
        >>> from energyscape.families import EDM
        >>> X = np.random.default_rng(0).normal(size=(200, 2))
        >>> model = EDM(max_steps=5, random_state=0).fit(X)
        >>> model.impute(np.array([[0.5, np.nan]]), steps=4)[0, 0]
        np.float64(0.5)
        """
        check_is_fitted(self)
        _check_counts(draws, steps, "draws")
        first = self._seed(random_state)
        done = [
            conditioning.impute(self, X, seed=first + i, steps=steps, progress=progress)
            for i in range(draws)
        ]
        return done if draws > 1 else done[0]


def _check_counts(n: int, steps: int | None, what: str = "n_samples") -> None:
    if n < 1:
        raise ValueError(f"{what} must be at least 1, got {n}")
    if steps is not None and steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")

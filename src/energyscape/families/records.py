"""Records drawn from a fitted family, in the original columns, types and units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sklearn.utils.validation import check_is_fitted

from energyscape.families import conditioning
from energyscape.families.bar import ProgressCallback
from energyscape.families.drawing import Drawing, check_counts

__all__ = ["Records"]


class Records(Drawing):
    """The faces that draw: new records, and the blank cells of given ones."""

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
            check_counts(n_samples, steps)
            seed = self._seed(random_state)
            drawn = conditioning.sample_given(self, given, n_samples, seed=seed, **how)
            return self._as_fitted(drawn)
        return self.decode(self.sample_encoded(n_samples, random_state=random_state, **how))

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
        check_counts(draws, steps, "draws")
        first = self._seed(random_state)
        done = [
            conditioning.impute(self, X, seed=first + i, steps=steps, progress=progress)
            for i in range(draws)
        ]
        return done if draws > 1 else done[0]

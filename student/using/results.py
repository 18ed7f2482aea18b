"""What `medal.predict` and `medal.evaluate` return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...cache.errors import MedalError
from ...pipeline.metrics import STATISTICS
from .prediction import Answers

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Evaluated", "Predicted"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Predicted(Answers):
    """A student's answers for images; `bad` is empty unless bad images were to be skipped.

    Attributes
    ----------
    run : the student's
    temperature : what logits are divided by before they become probabilities
    """

    run: Path
    temperature: float

    def to_pandas(self) -> pd.DataFrame:
        """Return a row an image: ``file``, ``frame``, ``prediction``, ``probability:CLASS`` …, ``logit:CLASS`` …"""
        rows = []
        for one in self.to_dicts():
            parts = {f"probability:{name}": value for name, value in one.pop("probability").items()}
            parts |= {f"logit:{name}": value for name, value in one.pop("logits").items()}
            rows.append(one | parts)
        return _frame(rows)


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """A student's figures on a dataset.

    Attributes
    ----------
    split : the rows that it was measured on, ``all`` where there are no splits
    images : how many they are
    figures : every statistic, with 95 % intervals in ``ci95``, by class in ``classes``
    domains : the same by domain
    warnings : reasons not to rely on the figures
    result : all that the command prints as JSON
    """

    run: Path
    dataset: str
    split: str
    images: int
    figures: Mapping[str, Any]
    domains: Mapping[str, Mapping[str, Any]]
    warnings: tuple[str, ...]
    result: Mapping[str, Any]

    @property
    def auroc(self) -> float | None:
        """The AUROC; None where it is undefined."""
        value: float | None = self.figures["auroc"]
        return value

    @property
    def accuracy(self) -> float | None:
        """The accuracy; None where it is undefined."""
        value: float | None = self.figures["accuracy"]
        return value

    def to_pandas(self) -> pd.DataFrame:
        """Return a row for all images and one a domain: ``rows``, ``n``, each statistic, ``…_low`` and ``…_high``."""
        rows = []
        for name, found in {"all": self.figures, **self.domains}.items():
            row: dict[str, Any] = {"rows": name, "n": found["n"]}
            for statistic in STATISTICS:
                low, high = found["ci95"][statistic]
                row |= {statistic: found[statistic], f"{statistic}_low": low, f"{statistic}_high": high}
            rows.append(row)
        return _frame(rows)


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    try:
        import pandas as pd
    except ImportError as error:
        raise MedalError("A table for pandas needs it: pip install pandas.") from error
    return pd.DataFrame(rows)

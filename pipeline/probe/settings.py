"""Settings of the probe, as they stand in a request and a manifest."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from ...cache.errors import DataError

__all__ = ["ProbeSettings", "Recipe"]

Recipe = Literal["auto", "mean", "graph", "plain", "grid"]

# `fold` is int8, and a manifest counts at most 128 probes.
_MAX_FOLDS = 126
_MAX_GRID = 12
# What `grid` is asked for with: all there was before there were other recipes.
_OF_GRID = ("folds", "grid", "choice_rows", "seed", "max_iter", "tolerance")


@dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """Settings of the probe.

    Attributes
    ----------
    recipe : how a probe is fitted, see `recipes`; ``auto`` goes by how many rows of train are labelled
    folds : probes that make train's logits out of fold; 0 = in-sample logits from the full probe
    grid : values of scikit-learn's C that the recipe `grid` tries, ascending, on standardised features. Half decades
        around 0.003 to 0.3, the best on 200 to 4,700 rows of four sets of medical images
    choice_rows : rows of train, and of val, that C is chosen on; the first by key, which is a hash
    seed : of the folds
    max_iter, tolerance : of the solver. With a tenth of this tolerance the test AUROC of PneumoniaMNIST moves by less
        than 0.0001, that of 60 blood cells by 0.001
    C : of the other recipes, of the fit on labels. Choosing it on few labels costs more than it gains
    C_soft : of the fit on soft labels
    components, neighbours : of the graph, see `neighbour_graph`
    spread : of a row's soft label, what comes from its neighbours
    graph_rows : rows that the graph holds at most, those with labels first
    few : up to this share of labelled rows `auto` takes `mean`, above it `grid`
    """

    recipe: Recipe = "auto"
    folds: int = 5
    grid: tuple[float, ...] = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0)
    choice_rows: int = 20_000
    seed: int = 0
    max_iter: int = 1000
    tolerance: float = 1e-4
    C: float = 0.1
    C_soft: float = 0.01
    components: int = 64
    neighbours: int = 10
    spread: float = 0.9
    graph_rows: int = 20_000
    few: float = 0.5

    def __post_init__(self) -> None:
        if self.recipe not in get_args(Recipe):
            raise DataError(
                f"The probe's recipe should be one of {', '.join(get_args(Recipe))}, got '{self.recipe}'; give "
                "--probe auto, the default."
            )
        if self.folds != 0 and not 2 <= self.folds <= _MAX_FOLDS:
            raise DataError(
                f"The number of folds should be 0 (in-sample logits) or 2 to {_MAX_FOLDS}, got {self.folds}; give "
                "--folds 5, the default."
            )
        ascending = list(self.grid) == sorted(set(self.grid)) and all(C > 0 for C in self.grid)
        if not ascending or not 1 <= len(self.grid) <= _MAX_GRID:
            raise DataError(f"The probe's grid should be 1 to {_MAX_GRID} ascending values above 0, got {self.grid}.")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as they stand in a request and a manifest.

        Those of `grid` without a recipe and what belongs to the others: caches from before there were other recipes
        keep their address.
        """
        values = asdict(self) | {"grid": list(self.grid)}
        return {name: values[name] for name in _OF_GRID} if self.recipe == "grid" else values

    @classmethod
    def from_dict(cls, given: object) -> ProbeSettings:
        """Return what `to_dict` gave, from a manifest of whatever origin.

        Raises
        ------
        DataError
            It is not that.
        """
        names = {field.name for field in fields(cls)}
        if isinstance(given, dict) and set(given) in (set(_OF_GRID), names) and isinstance(given["grid"], list):
            recipe = given.get("recipe", "grid")
            numbers = [*given["grid"], *(value for name, value in given.items() if name not in ("grid", "recipe"))]
            numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in numbers)
            if numeric and recipe in get_args(Recipe):
                return cls(**{**given, "recipe": recipe, "grid": tuple(given["grid"])})
        raise DataError(
            f"Expected the settings {', '.join(sorted(_OF_GRID))} of a probe, or {', '.join(sorted(names))}, got "
            f"{str(given)[:200]}."
        )

"""L2 logistic regression on soft labels, which scikit-learn's does not take."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit, log_softmax

from .logistic import Solved

__all__ = ["fit_soft"]


def fit_soft(
    matrix: npt.NDArray[np.float32],
    target: npt.NDArray[np.float64],
    *,
    C: float,  # noqa: N803 - everybody's name for the inverse penalty
    max_iter: int,
    tolerance: float,
) -> Solved:
    """Fit one linear classifier from zero, its penalty and its stopping rule in scikit-learn's scale.

    Parameters
    ----------
    matrix : (n, F) standardised
    target : (n, K) probabilities: of classes that exclude each other, each row's sum 1; or, K = 1, of one label
    """
    count, width = matrix.shape
    columns = target.shape[1]

    def loss(flat: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        weight, bias = flat[: columns * width].reshape(columns, width), flat[columns * width :]
        given = (matrix @ weight.T.astype(np.float32)).astype(np.float64) + bias  # (n, K)
        if columns == 1:
            value = (np.logaddexp(0, given) - target * given).sum()
            residual = expit(given) - target
        else:
            log_probability = log_softmax(given, axis=1)
            value = -(target * log_probability).sum()
            residual = np.exp(log_probability) - target
        slope = (residual.T.astype(np.float32) @ matrix).astype(np.float64) + weight / C
        value += 0.5 * np.square(weight).sum() / C
        return float(value) / count, np.concatenate([slope.ravel(), residual.sum(0)]) / count

    found: Any = minimize(
        loss, np.zeros(columns * (width + 1)), jac=True, method="L-BFGS-B",
        options={"maxiter": max_iter, "gtol": tolerance, "ftol": 64 * np.finfo(np.float64).eps, "maxls": 50},
    )  # fmt: skip
    weight, bias = found.x[: columns * width].reshape(columns, width), found.x[columns * width :]
    return Solved(weight, bias, int(found.nit), bool(found.success))

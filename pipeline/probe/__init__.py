"""The linear probe: folds, the choice of its settings, the fit."""

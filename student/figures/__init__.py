"""Evaluation of predictions: scores, comparisons, verdicts, tables and plots."""

"""What predictions are worth: scores, comparisons, verdicts, tables and plots."""

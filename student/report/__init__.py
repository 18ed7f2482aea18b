"""The report of runs: one page of HTML that holds all it shows."""

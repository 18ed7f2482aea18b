"""What a dataset of every kind becomes: labels, splits, domains and groups beside its images."""

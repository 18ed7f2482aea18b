"""The audit: what is wrong with a dataset, from what stage one has cached; the teacher is not needed."""

"""The audit: finds problems of a dataset from its cache; the teacher is not needed."""

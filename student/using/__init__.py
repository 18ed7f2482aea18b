"""Using a trained student: prediction, evaluation, export."""

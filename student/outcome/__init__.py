"""What a run leaves: metrics, description, model card."""

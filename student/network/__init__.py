"""The CNN: its architecture, its pixels, its arithmetic."""

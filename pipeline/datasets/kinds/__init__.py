"""The kinds of dataset that medal opens, one module each."""

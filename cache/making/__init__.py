"""While a cache is being made: its work directory, the lock on it, and what a killed process leaves."""

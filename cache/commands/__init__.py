"""The commands on caches and stores, one module each."""

"""Stores: folders on any file system in which a lab's caches lie for everybody, and nothing of which is trusted."""

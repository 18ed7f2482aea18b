"""Stores: folders on any file system that share a lab's caches. Nothing in them is trusted."""

"""This machine: files, rights and processes, whatever they are for."""

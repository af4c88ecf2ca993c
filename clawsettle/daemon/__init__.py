"""Composition root, life cycle, signals, logs and the command line."""

"""Measures the main path: what it does in a second, what it costs, and what it stands on.

``make bench`` runs all of it and writes ``bench/results/<date>.json`` and the table in
``docs/reference/performance.md``. Every figure is a median over rounds in which the parties take
turns, and every ratio compares runs of the same round: a noisy machine disturbs both sides.
"""

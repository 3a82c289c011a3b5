"""Whole runs: from keys to decoded samples, step by step, captured as a graph, or inside an exported file.

May import backends, models and all below them. To add a way to run: a final class that maps a key, times and M to
samples, and a line in ``opening.py`` that picks it.
"""

"""Gaussian mixtures: laws whose posteriors, scores and velocities are known exactly, and the target fitted to data.

May import codecs, operators, diffusion and the root modules. To add an analytic problem: a case of
:func:`.problems.mixture`, with a fixed definition, so that results compare.
"""

"""Backends: each one a :class:`stmd_sdk.diffusion.posterior.Network`, and nothing else.

May import models and all below them. To add a backend: a module with the network and its ``load_…`` function, and
the suffix in ``stmd_sdk/runs/opening.py``.
"""

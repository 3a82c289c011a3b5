"""Backends: each one a :class:`stmd_sdk.posterior.Network`."""

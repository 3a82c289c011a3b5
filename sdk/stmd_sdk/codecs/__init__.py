"""Codecs: between samples, as a user has them, and x_0, as the network sees it.

May import diffusion and the root modules. To add a codec: a frozen dataclass with its own ``kind`` in ``codec.py``,
named in the union ``Codec``.
"""

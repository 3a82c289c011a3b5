"""Models that others trained: diffusers' folders as a spec and a network.

May import data, models, mixtures, codecs, networks, diffusion and the root modules. To read another scheduler: its name
in ``scheduler.py``; another network: its class in ``networks/diffusers_network.py`` and its name in ``folder.py``.
"""

"""A model over HTTP: ``stmd serve``, on one machine or on many, by Ray Serve.

``app.py`` is what clients see, ``batching.py`` how their requests share evaluations, ``worker.py`` what draws, and
``deployment.py`` what knows Ray: all else is tested without it, behind the seam ``engine.py``. May import ``stmd_sdk``.
To add a resource: a function of ``app.py``'s, what it takes in ``asked.py``, a bound in ``limits.py``.
"""

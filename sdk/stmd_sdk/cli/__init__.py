"""The command ``stmd``: a module a command, which parses and prints; the work is elsewhere.

May import everything in the SDK. To add a command: a module with one function, and a line in ``app.py``.
"""

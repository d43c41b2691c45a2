"""Stores: counters shared by all workers and machines, and the fallback without one.

``backend.py`` is the port: start there. ``backends.py`` has the kinds of store,
``opening.py`` picks one by URL. ``redis.py`` counts in a server (``lua/gate.lua``),
``memory.py`` in the process. May import ``core``, ``detect`` and ``limits``. This file
imports nothing, so that configuration and supervisor stay small.
"""

"""One exchange in nine steps, from a request head to its record.

``exchange.py`` drives: start there. ``flow.py`` is the data of one request, ``shared.py``
what the exchanges of a worker share, ``steps/`` and ``settle.py`` the steps that compute,
``local_reply.py`` answers of the gateway's own. Imports ``http`` and the pure folders.
"""

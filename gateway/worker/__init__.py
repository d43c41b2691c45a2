"""One worker process: it serves clients with ``http``, ``proxy`` and a store.

``worker.py`` is the process and its messages from control, ``plane.py`` the data plane
that it runs, ``build.py`` makes objects from the configuration, ``jwt.py`` verifies
tokens. Nothing here is needed by the control process. Start in ``worker.py``.
"""

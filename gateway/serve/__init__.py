"""The processes of one gateway: supervisor, children, ports, logs, and what joins them.

``link`` carries messages between control and workers, ``ring`` carries records. The
processes themselves are in ``control/`` and ``worker/``. Start reading in
``supervisor.py``. May import ``http``, ``store``, ``config`` and the pure folders.
"""

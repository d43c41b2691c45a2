"""One worker process: it serves clients with ``http``, ``proxy`` and the store.

Start reading in ``worker.py``; ``build.py`` turns the configuration into objects. Holds
nothing that only the control process needs.
"""

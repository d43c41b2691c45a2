"""Who sends a request: credentials, trusted hops, networks, the allow list.

Start reading in ``identify.py``. Pure: no I/O, ``now`` is an argument. May import
``core``.
"""

"""From peer address and request head to tenant, user and client_ip.

Credentials, trusted proxies, networks and the allow list. Start reading in
``identify.py``. Pure (no I/O, no clock: ``now`` is an argument). May import ``core``.
"""

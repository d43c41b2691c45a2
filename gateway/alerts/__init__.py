"""Incidents shared by all gateways of a store, and their delivery to receivers.

``model``: values; ``outbox``: port of the store (``redis_outbox`` for a server,
``sqlite_outbox`` for one gateway without); ``delivery``: one worker per receiver;
``formats``: requests in each receiver's format; ``send``: HTTP. Start in ``delivery``.
"""

"""Incidents shared by all gateways of a store, and their way to the receivers.

``model`` the nouns; ``ledger`` what the store promises (``redis_ledger`` for a server,
``memory_ledger`` for one gateway without); ``courier`` fans events out to one receiver
and delivers them; ``formats`` what each kind of receiver speaks; ``send`` the wire.
"""

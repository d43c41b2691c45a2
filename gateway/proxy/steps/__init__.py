"""Steps of an exchange that compute: each takes the flow and returns a value.

They may import ``flow``, ``shared`` and what those import, never ``exchange``. Start
with ``gate.py``; ``exchange.py`` calls them in the order gate, read, reserve, score,
decide.
"""

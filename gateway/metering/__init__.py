"""What a request cost: dialects, usage, prices, counting of tokens.

Start reading in ``dialects/dialect.py``. Pure but for ``counting.py``, which runs a child
process. May import ``core``.
"""

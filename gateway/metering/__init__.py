"""What a request cost: provider formats (dialects), usage, prices, token counting.

Start reading in ``dialects/dialect.py``, then ``usage.py`` and ``prices.py``. Pure (no
I/O, no clock), except ``counting.py``, which runs a child process. May import ``core``.
"""

"""What every other folder shares: the data model, a cache, small helpers.

Start reading in ``model.py``: requests, limits, policies and records as plain structs.
Pure (no I/O, no clock: ``now`` is an argument). May import nothing else of the package.
"""

"""Whether a request may pass: plans, admission, the gate, windows, the store port.

Start reading in ``plans.py``. Pure: no I/O, ``now`` is an argument. May import ``core``,
``identity`` and ``metering``.
"""

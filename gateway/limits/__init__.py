"""Whether a request may pass: meters, plans, admission, gate, windows, the store port.

Start reading in ``meters.py`` (what can be limited), then ``plans.py`` (which counters a
request touches). Pure (no I/O, no clock: ``now`` is an argument). May import ``core``,
``identity`` and ``metering``. The stores behind ``ports.py`` are in ``store/``.
"""

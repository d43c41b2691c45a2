"""Where records go: a rotating file of JSON lines, InfluxDB, OpenTelemetry.

Start reading in ``records.py``, the public form of a record. May import the pure folders
and ``config``; only ``control`` imports this folder.
"""

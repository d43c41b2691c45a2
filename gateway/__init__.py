"""Tidegate: a reverse-proxy sidecar in front of LLM APIs.

The nouns. A *subject* is who a limit or a score is about (a client_ip, a user, a
tenant, or a pair such as user+model). A *meter* is what is counted. A *limit* is
subject x meter x window. A *policy* is limits, anomaly settings and a ladder of
responses. A *tenant* is a set of credentials under one policy. An *exchange* is one
request with its answer; when it has ended, a *record* says what is known of it.

The nine steps of an exchange, one line each in ``proxy/exchange.py``:
identify, gate, read, reserve, score, decide, forward, settle, record.

Layers: ``core`` and ``detect`` are pure (no I/O, ``now`` is an argument);
``config`` knows ``core.model``; ``http``, ``store``, ``sinks``, ``alerts``,
``admin``, ``offline`` and ``stream`` know those and never one another (``proxy`` may
use ``http``); ``serve`` alone picks concrete classes; ``cli`` is on top.
"""

__version__ = "0.1.0"

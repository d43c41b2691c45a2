"""Tidegate: a reverse-proxy sidecar in front of LLM APIs.

Terms. A *subject* is what a limit or a score applies to (a client_ip, a user, a tenant,
or a pair such as user+model). A *meter* is what is counted. A *limit* is subject x meter
x window. A *policy* is limits, anomaly settings and a ladder of responses. A *tenant* is
a set of credentials under one policy. An *exchange* is one request with its answer; its
*record* is written when it has ended.

An exchange has nine steps, one line each in ``proxy/exchange.py``:
identify, gate, read, reserve, score, decide, forward, settle, record.

Layers, lower first: ``core``; ``identity``, ``limits``, ``metering`` and ``detect``
(pure: no I/O, ``now`` is an argument); ``config``; the edges (``http``, ``store``,
``sinks``, ``alerts``, ``admin``, ``offline``, ``stream``); ``proxy``; the processes
(``serve``, ``worker``, ``control``); ``commands``. ``tests/unit/test_architecture.py``
checks which folder may import which; each folder's ``__init__.py`` says what it is for.
"""

__version__ = "0.1.0"

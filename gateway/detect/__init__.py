"""The detector: events in, verdicts and incidents out. Pure; event time only.

``engine`` drives one event; ``subject``, ``tenant``, ``peers`` and ``baseline`` hold
state; ``rules/`` has one file per rule; ``incidents``, ``ladder``, ``enforcement`` and
``responses`` turn signals into actions. May import ``core``, ``identity``, ``limits``
and ``metering``. Start reading at ``engine``.
"""

"""``tidegate watch``: recorded or live events in, verdicts and incidents out.

``run`` connects the command to files and terminal, ``source`` reads lines, ``watch``
feeds the detector, ``time_shift`` handles events older than the baselines. Start
reading at ``watch``. May import ``config`` and ``detect``; no socket, no store.
"""

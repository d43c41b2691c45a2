"""The demo: two minutes of Tidegate on one machine, without an account.

``llm`` is a mock LLM API, ``gateway`` runs ``tidegate serve`` in front of it,
``history`` is the past traffic that the gateway learns, ``clients`` send ordinary
traffic, ``scenarios`` are the attacks, ``narrator`` prints what happens. Start reading
at ``run``. May import what lies below ``serve``; nothing but ``commands`` imports it.
"""

"""The wire: framing and header rules (pure), and the asyncio protocols of both sides.

``head``, ``chunked``, ``response`` and ``proxyproto`` are pure functions over bytes.
``listener`` and ``client`` face clients, ``pool`` and ``upstream`` face the LLM API,
``tunnel`` joins the two after an upgrade. What an exchange does with a request is not
known here: it comes in through the ``Service`` and ``Handler`` protocols of
``handler``.
"""

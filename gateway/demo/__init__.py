"""Two minutes of Tidegate on one machine, without any account.

A made-up LLM API (``llm``), a gateway in front of it (``house``), customers and those
who abuse them (``people``, ``acts``), a past that the gateway has learned (``past``),
and a voice that tells what happens (``voice``). ``command`` puts them together.
"""

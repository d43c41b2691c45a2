"""Labelled traffic of a multi-tenant LLM service: realistic, seeded, never given away.

``World(Settings(seed=1)).rows()`` is an ordered stream of requests with labels;
``python -m loadtests.scenarios`` writes it to files.
"""

from loadtests.scenarios.labels import Cause, Ledger
from loadtests.scenarios.rows import Row
from loadtests.scenarios.world import Settings, World

__all__ = ["Cause", "Ledger", "Row", "Settings", "World"]

"""Cases of ``loadtests/evasion.py``: ways to have work done that is not counted.

Each module yields cases; ``stage.py`` runs and judges them.
"""

"""Every command of `tidegate`, one file for each group of commands.

Start reading in ``cli.py``. Imports anything below it, inside the functions where it is
heavy; only ``__main__`` imports it.
"""

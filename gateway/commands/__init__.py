"""Every command of ``tidegate``, one file for each group of commands.

Flags, help texts and exit codes are here; the work is done by the folder that a command
names. A running gateway is reached through its admin API (``remote.py``) only. Start
reading in ``cli.py``. Only ``__main__`` imports this folder.
"""

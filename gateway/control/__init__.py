"""The control process: records, detection, enforcement, blocks, alerts, admin backend.

Start reading in ``control.py``. May import every folder but ``commands``, ``worker`` and
``proxy``.
"""

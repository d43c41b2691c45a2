"""The admin port: probes, Prometheus metrics, the JSON API under ``/api/v1``, the console.

Runs in the control process, which it reaches only through ``backend.AdminBackend``.
Start at ``api.build_app`` (routes and middleware); ``activity.py`` holds what the
console shows beyond current state, ``console/`` the page itself (no build step).
"""

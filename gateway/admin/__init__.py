"""The port for operators: probes, Prometheus metrics, and the JSON API under ``/api/v1``.

It knows control through ``backend.Backend`` alone.
"""

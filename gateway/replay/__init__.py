"""Recorded traffic again: ``replay`` through a draft policy, ``learn`` into baselines.

``reading`` and ``logs`` read files, ``sorting`` orders requests by time, ``simulate``
decides them, ``verdicts`` feeds the detector, ``totals`` and ``report`` sum up.
``learning`` and ``saving`` make baselines. Start reading at ``run`` or ``learn``. May
import ``store``, ``stream``, ``offline``, ``serve``.
"""

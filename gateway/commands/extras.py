"""Packages of the extra ``tidegate[analyze]``, which a gateway runs without."""

from __future__ import annotations

from importlib.util import find_spec

ANALYZE_PACKAGES = ("matplotlib", "numpy", "polars")


def missing_extra(command: str) -> str:
    """The error message if ``command`` lacks a package of ``analyze``, else ``""``."""
    missing = [name for name in ANALYZE_PACKAGES if find_spec(name) is None]
    if not missing:
        return ""
    return (
        f"{command} needs {', '.join(missing)};"
        " install with: pip install 'tidegate[analyze]'"
    )

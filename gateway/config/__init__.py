"""Configuration: TOML file, environment and flags to frozen structs and runtime tables.

``load`` reads and validates, ``resolve`` turns the result into the types of
``core.model``. Start reading in ``structs.py``: every key and every default is there.
May import the pure folders and ``store`` (forms of store URLs), and stays light: every
worker imports it.
"""

from gateway.config.errors import ConfigError, Problem
from gateway.config.load import Loaded, find_file, load, load_config
from gateway.config.resolve import Resolved, effective_policy, resolve
from gateway.config.structs import Config
from gateway.config.values import parse_duration

__all__ = [
    "Config",
    "ConfigError",
    "Loaded",
    "Problem",
    "Resolved",
    "effective_policy",
    "find_file",
    "load",
    "load_config",
    "parse_duration",
    "resolve",
]

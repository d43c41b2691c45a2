"""Configuration: TOML, environment and flags to frozen structs and runtime tables.

``load_config`` reads and checks; ``resolve`` turns the result into what the data plane
is built from, in the terms of ``core.model``. Light to import: workers do it.
"""

from gateway.config.errors import ConfigError, Problem
from gateway.config.load import Loaded, find_file, load, load_config
from gateway.config.resolve import (
    Credential,
    Resolved,
    Route,
    Target,
    effective_policy,
    resolve,
)
from gateway.config.structs import Config
from gateway.config.values import Duration, Secret, Size, Url, parse_duration

__all__ = [
    "Config",
    "ConfigError",
    "Credential",
    "Duration",
    "Loaded",
    "Problem",
    "Resolved",
    "Route",
    "Secret",
    "Size",
    "Target",
    "Url",
    "effective_policy",
    "find_file",
    "load",
    "load_config",
    "parse_duration",
    "resolve",
]

"""The configuration of the demo's gateway."""

from __future__ import annotations

import os

from gateway.config import load
from gateway.demo.gateway import DemoGateway


def test_the_configuration_is_valid():
    """The configuration of the demo passes ``tidegate check`` without a warning."""
    gateway_ = DemoGateway()
    try:
        gateway_.write_config("http://127.0.0.1:9")
        loaded = load(f"{gateway_.folder}/tidegate.toml")
        assert [tenant.name for tenant in loaded.config.tenants] == ["shop", "school"]
        assert loaded.warnings == ()
    finally:
        gateway_.close()
    assert not os.path.exists(gateway_.folder)

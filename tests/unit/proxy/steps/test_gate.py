"""What is refused from the head alone, and in which order."""

from __future__ import annotations

import time
from types import SimpleNamespace

from gateway.core.model import ANONYMOUS_TENANT, Block, Policy
from gateway.core.refusal import Refusal
from gateway.limits.gate import BLOCKED, Gate
from gateway.proxy.steps.gate import check_head
from tests.flows import flow_of

UNKNOWN = Refusal(401, "x", "x")


def shared(*blocks: Block) -> SimpleNamespace:
    """A worker's gate with these blocks."""
    gate = Gate()
    for block in blocks:
        assert gate.add_block(block)
    return SimpleNamespace(gate=gate, epoch=time.time() - time.perf_counter())


def test_empty_gate_leaves_the_heads_own_refusal():
    """Without blocks and full limits only the head itself can refuse."""
    assert check_head(flow_of(Policy("p")), shared()) is None
    assert check_head(flow_of(refusal=UNKNOWN), shared()) is UNKNOWN


def test_block_of_an_address_comes_before_the_credential():
    """A blocked address without a known credential gets 403, not 401."""
    block = Block("client_ip", "203.0.113.9", ANONYMOUS_TENANT)
    flow = flow_of(refusal=UNKNOWN, client_ip="203.0.113.9")
    assert check_head(flow, shared(block)) is BLOCKED
    assert flow.verdict.action == "block"
    other = flow_of(refusal=UNKNOWN, client_ip="203.0.113.8")
    assert check_head(other, shared(block)) is UNKNOWN

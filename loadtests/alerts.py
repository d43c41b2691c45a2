"""Delivery of 1,000 alerts to a failing receiver while all processes are killed twice.

    python -m loadtests.alerts [COUNT]

Exit code 1 when an alert is lost, has two ids, is out of order or badly signed.
"""

from __future__ import annotations

import argparse
import time

from tests.e2e import test_alerts as rig
from tests.engines import engine_binaries, running_engine
from tests.gateway_process import running_gateway, until

RETRIES = 'retries = ["1s", "2s", "4s", "8s", "15s", "30s", "30s", "30s", "30s"]'
LONGEST_S = 300.0


def main(count: int) -> int:
    """Run the test and print the result."""
    began = time.monotonic()
    with (
        running_engine(next(iter(engine_binaries().values()))) as engine,
        rig.running_hook() as hook,
    ):
        hook.status = 500
        more = RETRIES
        with running_gateway(rig.config(hook, more), store=engine.url) as gateway:
            half = count // 2
            rig.report(engine.url, *(rig.said(n) for n in range(half)))
            until(lambda: len(hook.seen) > 2, 60)
            rig.kill_everything(gateway)
            ends = (rig.said(n, "incident.resolved") for n in range(half))
            rig.report(engine.url, *ends)
            hook.status = 302
            gateway.start()
            until(lambda: hook.seen[-1][2] == 302, 60)
            hook.status = 200
            until(lambda: len(hook.got()) > count // 4, LONGEST_S)
            rig.kill_everything(gateway)
            gateway.start()
            until(lambda: len(set(rig.ids(hook, 200))) >= 2 * half, LONGEST_S)
        rig.verify(hook)
    accepted = rig.ids(hook, 200)
    order: dict[str, list[str]] = {}
    for payload in hook.got():
        kinds = order.setdefault(payload["id"], [])
        if payload["type"] not in kinds:
            kinds.append(payload["type"])
    wrong = [kinds for kinds in order.values() if kinds != sorted(kinds)]
    twice = len(accepted) - len(set(accepted))
    print(
        f"alerts {2 * half}, accepted {len(set(accepted))}, attempts {len(hook.seen)}"
    )
    print(
        f"twice {twice}, out of order {len(wrong)}, in {time.monotonic() - began:.0f} s"
    )
    return int(bool(wrong) or len(set(accepted)) != 2 * half)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("count", nargs="?", type=int, default=1000)
    raise SystemExit(main(parser.parse_args().count))

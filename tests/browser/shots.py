"""Screenshots of the console, in light and dark.

``python -m tests.browser.shots DIR`` writes one picture of each view of a gateway under a
scraping attack. With ``--demo`` it writes the pictures of the main views during the DDoS
of ``tidegate demo`` (90 s). The committed pictures are those of the first run, then of
the second over them.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.browser.stage import (
    ATTACKER,
    VIEWS,
    Page,
    attack,
    browser,
    config_of,
    crowd,
    in_background,
)
from tests.gateway_process import (
    REPOSITORY,
    Gateway,
    running_gateway,
    running_mock,
    until,
)

THEMES = ("light", "dark")
SIZE = {"width": 1440, "height": 900}
# Time for charts to draw; shorter in the demo, whose attack lasts 22 s.
DRAWN_MS, DEMO_DRAWN_MS = 1500, 700
INTO_ATTACK_S = 5.0
MAX_BYTES = 300_000
DAY = timedelta(days=1)
DEMO_TIMEOUT_S = 150.0


def shoot(folder: Path) -> None:
    """Take the pictures of a gateway with ordinary traffic and a scraping attack."""
    with (
        running_mock() as mock,
        running_gateway(config_of(mock)) as gateway,
        browser() as chromium,
    ):
        for _ in range(8):
            crowd(gateway, 3, 0.02)
        with in_background(crowd, gateway, 12, 0.03):
            attack(gateway)
            time.sleep(2)
            incident = gateway.api("GET", "/api/v1/incidents")["items"][0]["id"]
            add_windows(gateway)
            views = {name: name for name in VIEWS}
            views |= {
                "incident": f"incidents/{incident}",
                "client": f"clients/client_ip/{ATTACKER}",
            }
            for theme in THEMES:
                with console(chromium, gateway.admin, theme) as page:
                    take(page, folder, views, theme, DRAWN_MS)
            narrow = chromium.new_page(viewport={"width": 380, "height": 800})
            shot = Page(narrow, gateway.admin).open("now")
            shot.screenshot(path=str(folder / "console-now-narrow.png"))


def add_windows(gateway: Gateway) -> None:
    """Add a weekly maintenance window and one for tomorrow."""
    weekly = {"days": ["sun"], "from": "02:00", "to": "04:00", "zone": "Europe/Berlin"}
    gateway.api("POST", "/api/v1/silences", {"repeat": weekly, "reason": "backups"})
    starts = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + DAY
    once = {
        "from": starts.isoformat(),
        "to": (starts + DAY / 12).isoformat(),
        "class": "surge",
        "reason": "product launch",
    }
    gateway.api("POST", "/api/v1/silences", once)


@contextlib.contextmanager
def console(chromium: Any, admin: str, theme: str) -> Iterator[Page]:
    """Open the console in a browser context of its own."""
    context = chromium.new_context(viewport=SIZE, color_scheme=theme)
    yield Page(context.new_page(), admin)
    context.close()


def take(
    page: Page, folder: Path, views: Mapping[str, str], theme: str, drawn_ms: float
) -> None:
    """Take one picture of each view."""
    for name, where in views.items():
        shot = page.open(where)
        shot.wait_for_timeout(drawn_ms)
        path = folder / f"console-{name}-{theme}.png"
        shot.screenshot(path=str(path))
        assert path.stat().st_size < MAX_BYTES, path


# -- the demo ------------------------------------------------------------------------------


def shoot_demo(folder: Path) -> None:
    """Take the pictures of the main views during the DDoS of the demo."""
    log = folder / "demo.log"
    with running_demo(log) as output, browser() as chromium:
        until(lambda: "Console" in output(), DEMO_TIMEOUT_S, "the demo's gateway")
        admin = output().partition("Console")[2].split()[0].rstrip("/")
        with (
            console(chromium, admin, "light") as light,
            console(chromium, admin, "dark") as dark,
        ):
            light.open("now")  # warms the browser's cache
            dark.open("now")
            until(lambda: "A DDoS" in output(), DEMO_TIMEOUT_S, "the DDoS")
            time.sleep(INTO_ATTACK_S)
            views = {
                "now": "now",
                "incident": f"incidents/{ddos_incident(admin)}",
                "clients": "clients",
            }
            for name, where in views.items():
                take(light, folder, {name: where}, "light", DEMO_DRAWN_MS)
                take(dark, folder, {name: where}, "dark", DEMO_DRAWN_MS)
            assert "A campaign" not in output(), "too slow: the DDoS had ended"
            views = {"incidents": "incidents"}
            take(light, folder, views, "light", DEMO_DRAWN_MS)
            take(dark, folder, views, "dark", DEMO_DRAWN_MS)
    log.unlink()


def ddos_incident(admin: str) -> str:
    """The id of the DDoS incident."""
    with urllib.request.urlopen(f"{admin}/api/v1/incidents") as answer:
        items = json.load(answer)["items"]
    return next(one["id"] for one in items if one["class"] == "ddos")


@contextlib.contextmanager
def running_demo(log: Path) -> Iterator[Callable[[], str]]:
    """Run ``tidegate demo`` for the block; yields a function that reads its output."""
    environ = {"PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as out:
        child = subprocess.Popen(
            [sys.executable, "-m", "gateway", "demo"],
            env=os.environ | environ,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        yield log.read_text
    finally:
        child.send_signal(signal.SIGINT)
        child.wait()


if __name__ == "__main__":
    chosen = [word for word in sys.argv[1:] if word != "--demo"]
    target = Path(chosen[0])
    target.mkdir(parents=True, exist_ok=True)
    (shoot_demo if "--demo" in sys.argv else shoot)(target)

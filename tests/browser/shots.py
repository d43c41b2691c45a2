"""Pictures of the console, in light and dark.

``python -m tests.browser.shots DIR`` takes one of each view, of a gateway with a scraper;
with ``--demo`` those of the documentation's first pages, of ``tidegate demo`` while its
botnet is at work (a minute and a half).
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
# Pages take their time to draw; the demo's act lasts 22 s.
DRAWN_MS, DEMO_DRAWN_MS = 1500, 700
INTO_THE_ACT_S = 5.0
MOST_BYTES = 300_000
DAY = timedelta(days=1)
_PLAY_S = 150.0


def shoot(folder: Path) -> None:
    """Ordinary traffic, a scraper, and what the console shows of it."""
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
            plan(gateway)
            views = {name: name for name in VIEWS}
            views |= {
                "incident": f"incidents/{incident}",
                "client": f"clients/client_ip/{ATTACKER}",
            }
            for theme in THEMES:
                with look(chromium, gateway.admin, theme) as page:
                    take(page, folder, views, theme, DRAWN_MS)
            narrow = chromium.new_page(viewport={"width": 380, "height": 800})
            shot = Page(narrow, gateway.admin).open("now")
            shot.screenshot(path=str(folder / "console-now-narrow.png"))


def plan(gateway: Gateway) -> None:
    """Two maintenance windows: each week, and once, tomorrow."""
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
def look(chromium: Any, admin: str, theme: str) -> Iterator[Page]:
    """The console in a window of its own."""
    context = chromium.new_context(viewport=SIZE, color_scheme=theme)
    yield Page(context.new_page(), admin)
    context.close()


def take(
    page: Page, folder: Path, views: Mapping[str, str], theme: str, drawn_ms: float
) -> None:
    """One picture of each view."""
    for name, where in views.items():
        shot = page.open(where)
        shot.wait_for_timeout(drawn_ms)
        path = folder / f"console-{name}-{theme}.png"
        shot.screenshot(path=str(path))
        assert path.stat().st_size < MOST_BYTES, path


# -- the demo ------------------------------------------------------------------------------


def shoot_demo(folder: Path) -> None:
    """The first screen, the incidents and the clients in the middle of the flood."""
    log = folder / "demo.log"
    with running_demo(log) as said, browser() as chromium:
        until(lambda: "Console" in said(), _PLAY_S, "the gateway of the demo")
        admin = said().partition("Console")[2].split()[0].rstrip("/")
        with (
            look(chromium, admin, "light") as light,
            look(chromium, admin, "dark") as dark,
        ):
            light.open("now")  # what the browser needs once, it has
            dark.open("now")
            until(lambda: "A DDoS" in said(), _PLAY_S, "the flood")
            time.sleep(INTO_THE_ACT_S)
            views = {
                "now": "now",
                "incident": f"incidents/{flood(admin)}",
                "clients": "clients",
            }
            for name, where in views.items():
                take(light, folder, {name: where}, "light", DEMO_DRAWN_MS)
                take(dark, folder, {name: where}, "dark", DEMO_DRAWN_MS)
            assert "A campaign" not in said(), "too slow: the flood was over"
            views = {"incidents": "incidents"}
            take(light, folder, views, "light", DEMO_DRAWN_MS)
            take(dark, folder, views, "dark", DEMO_DRAWN_MS)
    log.unlink()


def flood(admin: str) -> str:
    """The incident of the botnet."""
    with urllib.request.urlopen(f"{admin}/api/v1/incidents") as answer:
        items = json.load(answer)["items"]
    return next(one["id"] for one in items if one["class"] == "ddos")


@contextlib.contextmanager
def running_demo(log: Path) -> Iterator[Callable[[], str]]:
    """``tidegate demo`` until the block ends; gives what it has said so far."""
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

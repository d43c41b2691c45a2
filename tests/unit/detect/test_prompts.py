"""Scraping with paraphrased prompts, and visitors that resemble it."""

from __future__ import annotations

import random

from gateway.detect.engine import Engine
from gateway.detect.model import HARMLESS, Event, Output

T = 1_767_600_000.0
DAY = 86_400.0
BASE = 0x0F0F_3C3C_5A5A_9669


class Neighbourhood:
    """A tenant of thirty clients with one day of history."""

    def __init__(self) -> None:
        self.engine = Engine()
        self.chance = random.Random(4)
        self.out: list[Output] = []
        for at in range(0, int(DAY), 600):
            for n in range(30):
                self.ask(T + at + 19 * n, f"10.0.{n}.7", self.chance.getrandbits(64))

    def ask(self, ts: float, ip: str, print_: int, user: str = "anonymous") -> None:
        event = Event(ts, ip, user, "acme", "m", "chat.completions", 300, 200)
        self.out += self.engine.observe(
            type(event)(
                *[getattr(event, f) for f in event.__struct_fields__[:11]], print_
            )
        )

    def worded(self, flips: int = 11) -> int:
        """A paraphrase of the template."""
        print_ = BASE
        for bit in self.chance.sample(range(64), flips):
            print_ ^= 1 << bit
        return print_

    def opened(self) -> list[str]:
        """Classes of opened incidents other than the harmless ones."""
        opened = [one.cls for one in self.out if one.type == "incident.opened"]
        return [cls for cls in opened if cls not in HARMLESS]

    def acted(self) -> set[str]:
        names = ("client.throttled", "client.blocked")
        return {one.subject.id for one in self.out if one.type in names}


def test_paraphrased_scraping_by_many_sources_is_one_incident():
    """Sixty sources that paraphrase one template slowly are one incident, and most are
    blocked.
    """
    street = Neighbourhood()
    for n in range(1800):
        street.ask(T + DAY + n / 1.4, f"198.18.0.{n % 60}", street.worded())
    assert street.opened() == ["scraping"]
    assert len(street.acted()) > 40
    assert all(ip.startswith("198.18.") for ip in street.acted())


def test_short_visits_to_a_new_application_are_ordinary():
    """As many paraphrases from visitors of three requests each get no action."""
    street = Neighbourhood()
    for n in range(1800):
        visitor = n // 3
        ip = f"198.18.{visitor // 250}.{visitor % 250}"
        street.ask(T + DAY + n / 1.4, ip, street.worded())
    assert "scraping" not in street.opened()
    assert not street.acted()


def test_newcomers_with_the_prompt_of_known_clients_are_ordinary():
    """Newcomers whose prompt three known clients also send get no action."""
    street = Neighbourhood()
    for n in range(3):
        street.ask(T + DAY + n, f"10.0.{n}.7", BASE)
    for n in range(600):
        street.ask(T + DAY + 9 + n / 20, f"198.18.0.{n % 200}", BASE)
    assert not street.acted()


def test_a_known_key_in_new_networks_is_no_flood():
    """A known key used in thirty new networks is ``credential_abuse``, not a flood of
    newcomers.
    """
    street = Neighbourhood()
    for at in range(0, int(DAY), 1200):
        street.ask(T + DAY + at, "10.1.0.7", street.chance.getrandbits(64), "key_1")
    street.out.clear()
    for n in range(300):
        street.ask(T + 2 * DAY + n, f"198.18.{n % 30}.1", street.worded(), "key_1")
    assert set(street.opened()) == {"credential_abuse"}

"""The console in a real browser, on a real gateway."""

from __future__ import annotations

import importlib.util
import signal
import threading
from datetime import UTC, datetime, timedelta
from urllib.parse import quote
from zoneinfo import ZoneInfo

import pytest

from tests.browser.stage import (
    ATTACKER,
    CHROMIUM,
    DRAWN_MS,
    KEY,
    VIEWS,
    Page,
    ask,
    attack,
    browser,
    config_of,
    crowd,
    in_background,
)
from tests.gateway_process import call, running_gateway, running_mock, until

WITHOUT = [
    name
    for name, there in (
        ("chromium", CHROMIUM),
        ("playwright", importlib.util.find_spec("playwright")),
    )
    if not there
]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(bool(WITHOUT), reason=f"not here: {', '.join(WITHOUT)}"),
]
CLIENT = f"clients/client_ip/{quote(ATTACKER)}?tenant=default"


@pytest.fixture(name="gateway", scope="module")
def _gateway():
    with running_mock() as mock, running_gateway(config_of(mock)) as gateway:
        crowd(gateway, 6)
        attack(gateway)
        until(lambda: gateway.api("GET", "/api/v1/incidents")["items"])
        yield gateway


@pytest.fixture(name="young")
def _young():
    """A gateway of its own, for what changes its incident for good."""
    with running_mock() as mock, running_gateway(config_of(mock)) as gateway:
        crowd(gateway, 6)
        attack(gateway)
        until(lambda: gateway.api("GET", "/api/v1/incidents")["items"])
        yield gateway


@pytest.fixture(name="chromium", scope="module")
def _chromium():
    with browser() as chromium:
        yield chromium


@pytest.fixture(name="tab")
def _tab(chromium, gateway):
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    tab = Page(context.new_page(), gateway.admin)
    yield tab
    context.close()
    assert tab.problems == []


def incident_of(gateway) -> str:
    """Where the incident is shown."""
    return f"incidents/{gateway.api('GET', '/api/v1/incidents')['items'][0]['id']}"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("view", [*VIEWS, "incident", "client"])
def test_every_view_is_sound(chromium, gateway, view, theme):
    """It opens without a word in the browser's log, and axe finds no serious fault."""
    where = {"incident": incident_of(gateway), "client": CLIENT}.get(view, view)
    context = chromium.new_context(color_scheme=theme)
    tab = Page(context.new_page(), gateway.admin)
    page = tab.open(where)
    page.wait_for_timeout(300)
    faults = serious_faults(page)
    context.close()
    assert (tab.problems, faults) == ([], [])


def serious_faults(page) -> list[str]:
    """What axe-core finds, where it can be had."""
    spec = importlib.util.find_spec("axe_playwright_python")
    if spec is None:
        return []
    from axe_playwright_python.sync_playwright import Axe  # noqa: PLC0415

    # In a world of its own: the page's policy lets no script in but ours.
    answer = Axe().run(page).response
    assert len(answer["passes"]) > 10
    found = answer["violations"]
    return [
        f"{one['id']}: {one['nodes'][0]['html']}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


def test_now_names_the_attack(tab, gateway):
    """The strip says what, who and what was done."""
    page = tab.open("now")
    strip = page.locator("section.strip").first.inner_text()
    assert "Scraping by" in strip
    assert ATTACKER in strip
    assert "Blocked" in strip


def test_numbers_equal_those_of_the_api(tab, gateway):
    """What the page shows of a client is what the API says of it."""
    shown = tab.open(CLIENT).locator("section", has_text="Last hour")

    def is_equal() -> bool:
        row = gateway.api("GET", f"/api/v1/{CLIENT}")["usage"][0]
        text = shown.inner_text()
        return f"{row['requests']:,}" in text and f"${row['usd']:.2f}" in text

    until(is_equal)


def test_undo_and_block_act_on_the_next_requests(chromium, young):
    """Unblocked: served again. Blocked by hand: refused. Undone: served."""
    tab = Page(chromium.new_page(), young.admin)
    page = tab.open(incident_of(young))
    page.get_by_role("button", name="Undo what was done").click()
    page.get_by_text("let in again", exact=False).first.wait_for()
    until(lambda: ask(young, ATTACKER, KEY, "hello again") == 200)
    page = tab.open(CLIENT)
    page.get_by_role("button", name=f"Block {ATTACKER}").click()
    page.locator("dialog").get_by_role("button", name="Block").click()
    page.locator(".toast").filter(has_text="Blocked").wait_for()
    until(lambda: ask(young, ATTACKER, KEY, "and again") == 403)
    page.keyboard.press("u")
    page.locator(".toast").filter(has_text="Unblocked").wait_for()
    until(lambda: ask(young, ATTACKER, KEY, "at last") == 200)
    page.close()
    assert tab.problems == []


def test_an_incident_is_acknowledged_and_resolved(chromium, young):
    """The buttons do what they say, and everybody sees it."""
    page = Page(chromium.new_page(), young.admin).open(incident_of(young))
    page.get_by_role("button", name="Acknowledge").click()
    page.get_by_text("looked after since").wait_for()
    page.get_by_role("button", name="Resolve", exact=True).click()
    page.get_by_text("● Over").wait_for()
    row = young.api("GET", "/api/v1/incidents?limit=1")["items"][0]
    assert (row["state"], row["acknowledged"]["by"]) == ("resolved", "operator")
    page.close()


def test_undo_holds_and_lets_in_as_before(chromium, young):
    """Undone from the strip: served. The note's undo: refused again, as it was."""
    page = Page(chromium.new_page(), young.admin).open("now")
    strip = page.locator("section.strip").first
    strip.get_by_role("button", name="Undo").click()
    page.locator(".toast").filter(has_text="let in again").wait_for()
    assert ask(young, ATTACKER, KEY, "hello") == 200
    page.keyboard.press("u")
    page.locator(".toast").filter(has_text="held as before").wait_for()
    assert ask(young, ATTACKER, KEY, "hello") == 403
    (row,) = [
        b for b in young.api("GET", "/api/v1/blocks")["items"] if b["id"] == ATTACKER
    ]
    assert row["by"] == "detector"
    page.close()


def test_what_cannot_be_taken_back_waits(chromium, young):
    """Acknowledged with second thoughts: nobody was told. A page that is left: done."""
    page = Page(chromium.new_page(), young.admin).open(incident_of(young))
    page.get_by_role("button", name="Acknowledge").click()
    page.get_by_role("button", name="Acknowledging").wait_for()
    page.keyboard.press("u")
    page.locator(".toast").filter(has_text="Not done").wait_for()
    assert acknowledged(young) is None
    page.get_by_role("button", name="Acknowledge").click()
    page.get_by_role("button", name="Acknowledging").wait_for()
    page.goto("about:blank")
    until(lambda: acknowledged(young), 30)
    page.close()


def acknowledged(gateway):
    """By whom, or None."""
    return gateway.api("GET", "/api/v1/incidents")["items"][0]["acknowledged"]


def test_an_incident_says_why_who_what_and_what_it_saved(tab, gateway):
    """Each with the API's figures."""
    page = tab.open(incident_of(gateway))
    one = gateway.api("GET", f"/api/v1/{incident_of(gateway)}")
    why = page.locator("section[aria-label=Why]").inner_text()
    assert all(reason in why for reason in one["reasons"])
    assert f"{one['observed']['requests_1m']:,.0f}" in why
    who = page.locator("section[aria-label=Who] tbody tr").first.inner_text()
    assert "100 %" in who
    done = page.locator("section[aria-label='What was done']").inner_text()
    assert "Blocked" in done
    assert "Incident opened" in done
    effect = page.locator("section[aria-label='Before and after']").inner_text()
    assert "Unhindered it would have spent" in effect
    assert f"{one['impact']['after']['requests']:,}" in effect


def test_a_part_of_a_chart_has_an_address(tab):
    """Dragged across: every chart shows it, a reload too, and back leads back."""
    page = tab.open("now")
    plot = page.locator(".u-over").first
    plot.wait_for()
    box = plot.bounding_box()
    y = box["y"] + 40
    page.mouse.move(box["x"] + box["width"] * 0.4, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.9, y, steps=4)
    page.mouse.up()
    page.get_by_role("button", name="Back to live").wait_for()
    assert "from=" in page.url
    page.reload()
    page.get_by_role("button", name="Back to live").wait_for()
    page.locator(".u-over").first.dblclick()
    page.get_by_role("button", name="Back to live").wait_for(state="detached")
    assert "from=" not in page.url


def test_newer_figures_leave_the_row_at_hand(tab):
    """What j chose is still chosen after the next figures."""
    page = tab.open("now")
    page.locator("tr[data-open]").first.wait_for()
    page.keyboard.press("j")
    page.keyboard.press("j")
    chosen = page.locator("tr.at").get_attribute("data-open")
    with page.expect_response("**/api/v1/clients?sort=now*"):
        pass
    page.wait_for_timeout(200)
    assert page.locator("tr.at").get_attribute("data-open") == chosen
    assert page.evaluate("document.activeElement.tagName") == "A"


def test_a_long_name_leaves_room_for_the_buttons(tab):
    """In the dialog, and the page is no wider than the window."""
    name = "x" * 250
    page = tab.open(f"clients?q={name}")
    page.get_by_role("button", name="Block").click()
    cancel = page.locator("dialog").get_by_role("button", name="Cancel")
    cancel.click()
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0


def test_keys_lead_everywhere(tab):
    """Views by number, rows by j and Enter, search by slash, help by question mark."""
    page = tab.open("now")
    page.keyboard.press("3")
    page.get_by_role("heading", name="Clients of the last hour").wait_for()
    page.locator("tr[data-open]").first.wait_for()
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Last hour", exact=True).wait_for()
    page.keyboard.press("/")
    page.keyboard.type("127.1.0.3")
    page.keyboard.press("Enter")
    page.get_by_role("link", name="127.1.0.3").wait_for()
    page.locator("h1").click()
    page.keyboard.press("?")
    page.get_by_role("heading", name="Keyboard").wait_for()


def test_the_empty_gateway_says_what_to_do(chromium):
    """Nothing wrong, nobody there: a line to copy."""
    with running_mock() as mock, running_gateway(config_of(mock)) as gateway:
        tab = Page(chromium.new_page(), gateway.admin)
        page = tab.open("now")
        assert page.get_by_text("No traffic yet").is_visible()
        assert page.get_by_text(f"http://127.0.0.1:{gateway.port}/v1").is_visible()
        assert page.get_by_text("Quiet", exact=False).first.is_visible()
        tab.page.close()
        assert tab.problems == []


def test_an_attack_shows_without_a_reload(chromium):
    """From its first request to the chart."""
    with running_mock() as mock, running_gateway(config_of(mock)) as gateway:
        tab = Page(chromium.new_page(), gateway.admin)
        page = tab.open("now")
        page.wait_for_timeout(1500)
        came = page.locator("section[aria-label=Requests] .now")
        until(lambda: came.inner_text() == "0")
        enough = threading.Event()
        with in_background(attack, gateway, enough):
            until(lambda: float(came.inner_text().replace(",", "")) >= 1)
            page.locator("section.strip").wait_for()
            enough.set()
        tab.page.close()
        assert tab.problems == []


def test_lost_updates_are_said(chromium):
    """A gateway that is gone: no figure poses as live for long."""
    with running_mock() as mock, running_gateway(config_of(mock)) as gateway:
        page = Page(chromium.new_page(), gateway.admin).open("now")
        page.wait_for_timeout(1200)
        gateway.children("control")[0].suspend()
        try:
            page.get_by_text("Live updates lost").wait_for()
            page.locator("#health").get_by_text("not connected").wait_for()
            assert page.locator("#health").get_by_text("serving").count() == 0
        finally:
            gateway.children("control")[0].resume()
        page.locator("#lost").wait_for(state="hidden")
        page.locator("#health").get_by_text("serving").wait_for()
        page.close()


def test_a_token_opens_the_console(chromium, monkeypatch):
    """A wrong one is told; the viewer's shows no buttons; no script can read it."""
    monkeypatch.setenv("T", "operators-own")
    monkeypatch.setenv("V", "viewers-own")
    with running_mock() as mock:
        text = config_of(mock)
        keys = 'token = { env = "T" }\nviewer_token = { env = "V" }\n'
        with running_gateway(text, admin=keys) as gw:
            page = chromium.new_context().new_page()
            page.set_default_timeout(DRAWN_MS)
            page.goto(gw.admin)
            page.get_by_label("Token").fill("wrong")
            page.get_by_role("button", name="Sign in").click()
            page.get_by_text("not valid").wait_for()
            page.get_by_label("Token").fill("viewers-own")
            page.get_by_role("button", name="Sign in").click()
            page.get_by_role("heading", name="Now", exact=True).wait_for()
            assert page.evaluate("document.cookie") == ""
            assert call("GET", f"{gw.admin}/api/v1/status")[0] == 401
            page.context.close()


def test_a_window_is_planned_once_and_each_week(tab, gateway):
    """What the form says is what the API knows; a fault is told beside it."""
    page = tab.open("alerts")
    page.get_by_text("Nothing is silenced").wait_for()
    page.get_by_role("button", name="Plan a window").click()
    page.get_by_label("How often").select_option("weekly")
    zone = zone_without_sunday()
    page.get_by_label("Time zone").fill(zone)
    page.get_by_label("Reason").fill("backups")
    page.wait_for_timeout(100)
    assert serious_faults(page) == []
    page.get_by_role("button", name="Plan", exact=True).click()
    page.get_by_text(f"each Sun 02:00\u201304:00 {zone}").wait_for()
    page.get_by_role("button", name="Plan a window").click()
    page.get_by_label("Of what").select_option("scraping")
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    for name, day in (("from", tomorrow), ("to", tomorrow + timedelta(days=1))):
        page.locator(f"input[name={name}]").fill(f"{day:%Y-%m-%dT%H:%M}")
    page.get_by_role("button", name="Plan", exact=True).click()
    page.get_by_role("cell", name="planned").nth(1).wait_for()
    weekly, once = sorted(
        gateway.api("GET", "/api/v1/silences")["items"], key=lambda one: one["class"]
    )
    assert (weekly["repeat"]["days"], weekly["reason"]) == (["sun"], "backups")
    assert (once["class"], once["state"], once["repeat"]) == (
        "scraping",
        "pending",
        None,
    )
    for _ in range(2):
        before = page.get_by_role("button", name="End", exact=True).count()
        page.get_by_role("button", name="End", exact=True).first.click()
        page.wait_for_function(
            "n => [...document.querySelectorAll('main button')]"
            ".filter(one => one.textContent === 'End').length < n",
            arg=before,
        )
    page.get_by_text("Nothing is silenced").wait_for()


def zone_without_sunday() -> str:
    """Where the early Sunday that the form proposes is not just now."""
    in_berlin = datetime.now(ZoneInfo("Europe/Berlin"))
    return "Pacific/Auckland" if in_berlin.isoweekday() == 7 else "Europe/Berlin"


def test_policies_show_the_price_and_what_observing_let_through(chromium):
    """What the API says, with a limit that only observes, also after a restart."""
    with running_mock() as mock:
        config = config_of(mock, "observe").replace("requests = 100000", "requests = 5")
        with running_gateway(config) as gateway:
            tab = Page(chromium.new_page(), gateway.admin)
            text = tab.open("policies").locator("main").inner_text()
            assert "Nothing spent yet" in text
            for n in range(8):
                assert ask(gateway, "127.1.0.1", "sk-1", f"hello {n}") == 200
            spend = until(lambda: spend_of(gateway, 8))
            for would in (spend["would"], spend["would_today"]):
                assert would["requests"] == would["limited"] == 3
            shown = tab.page.locator("main")
            words = "3 requests of 1 client today (3 over a limit)"
            shown.get_by_text(words).wait_for()
            price = shown.get_by_text(f"${spend['usd']:.4f}", exact=True).first
            price.wait_for()
            assert tab.problems == []
            tab.page.close()
            gateway.signal(signal.SIGTERM)
            assert gateway.wait() == 0
            gateway.start()
            assert until(lambda: spend_of(gateway, 8)) == spend


def spend_of(gateway, requests: int) -> dict | None:
    """Once that many were counted."""
    (policy,) = gateway.api("GET", "/api/v1/policies")["items"]
    return policy["spend"] if policy["spend"]["requests"] == requests else None

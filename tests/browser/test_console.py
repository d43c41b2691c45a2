"""End-to-end tests of the console in Chromium against a running gateway."""

from __future__ import annotations

import importlib.util
import math
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
    pytest.mark.skipif(bool(WITHOUT), reason=f"not installed: {', '.join(WITHOUT)}"),
]
CLIENT = f"clients/client_ip/{quote(ATTACKER)}?tenant=default"


@pytest.fixture(name="gateway", scope="module")
def _gateway():
    with running_mock() as mock, running_gateway(config_of(mock)) as gateway:
        crowd(gateway, 6)
        attack(gateway)
        until(lambda: gateway.api("GET", "/api/v1/incidents")["items"])
        yield gateway


@pytest.fixture(name="fresh_gateway")
def _fresh_gateway():
    """A gateway of its own, for tests that change its incident permanently."""
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
    """The console path of the newest incident."""
    return f"incidents/{gateway.api('GET', '/api/v1/incidents')['items'][0]['id']}"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("view", [*VIEWS, "incident", "client"])
def test_every_view_has_no_errors_and_no_serious_axe_violations(
    chromium, gateway, view, theme
):
    """Every view opens without browser console messages or serious axe violations."""
    where = {"incident": incident_of(gateway), "client": CLIENT}.get(view, view)
    context = chromium.new_context(color_scheme=theme)
    tab = Page(context.new_page(), gateway.admin)
    page = tab.open(where)
    page.wait_for_timeout(300)
    violations = serious_violations(page)
    context.close()
    assert (tab.problems, violations) == ([], [])


def serious_violations(page) -> list[str]:
    """Serious and critical violations found by axe-core; empty if it is not installed."""
    spec = importlib.util.find_spec("axe_playwright_python")
    if spec is None:
        return []
    from axe_playwright_python.sync_playwright import Axe  # noqa: PLC0415

    # Evaluated by the driver: the page's CSP allows no other scripts.
    answer = Axe().run(page).response
    assert len(answer["passes"]) > 10
    found = answer["violations"]
    return [
        f"{one['id']}: {one['nodes'][0]['html']}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


def test_now_names_the_attack(tab, gateway):
    """The incident strip shows the class, the client and the action."""
    page = tab.open("now")
    strip = page.locator("section.strip").first.inner_text()
    assert "Scraping by" in strip
    assert ATTACKER in strip
    assert "Blocked" in strip


def test_numbers_equal_those_of_the_api(tab, gateway):
    """A client's page shows the same figures as the API."""
    shown = tab.open(CLIENT).locator("section", has_text="Last hour")

    def is_equal() -> bool:
        row = gateway.api("GET", f"/api/v1/{CLIENT}")["usage"][0]
        text = shown.inner_text()
        # Small amounts have more digits, so that the second one is not rounded.
        cents = math.floor(row["usd"] * 100) / 100
        usd = any(f"${amount:.2f}" in text for amount in (row["usd"], cents))
        return f"{row['requests']:,}" in text and usd

    until(is_equal)


def test_undo_and_block_act_on_the_next_requests(chromium, fresh_gateway):
    """Unblocking and blocking in the console take effect on the next requests."""
    tab = Page(chromium.new_page(), fresh_gateway.admin)
    page = tab.open(incident_of(fresh_gateway))
    page.get_by_role("button", name="Undo actions").click()
    page.get_by_text("Restrictions removed", exact=False).first.wait_for()
    until(lambda: ask(fresh_gateway, ATTACKER, KEY, "hello again") == 200)
    page = tab.open(CLIENT)
    page.get_by_role("button", name=f"Block {ATTACKER}").click()
    page.locator("dialog").get_by_role("button", name="Block").click()
    page.locator(".toast").filter(has_text="Blocked").wait_for()
    until(lambda: ask(fresh_gateway, ATTACKER, KEY, "and again") == 403)
    page.keyboard.press("u")
    page.locator(".toast").filter(has_text="Unblocked").wait_for()
    until(lambda: ask(fresh_gateway, ATTACKER, KEY, "at last") == 200)
    page.close()
    assert tab.problems == []


def test_an_incident_is_acknowledged_and_resolved(chromium, fresh_gateway):
    """Acknowledge and Resolve change the incident in the API."""
    page = Page(chromium.new_page(), fresh_gateway.admin).open(
        incident_of(fresh_gateway)
    )
    page.get_by_role("button", name="Acknowledge").click()
    page.get_by_text("acknowledged at").wait_for()
    page.get_by_role("button", name="Resolve", exact=True).click()
    page.get_by_text("● Resolved").wait_for()
    row = fresh_gateway.api("GET", "/api/v1/incidents?limit=1")["items"][0]
    assert (row["state"], row["acknowledged"]["by"]) == ("resolved", "operator")
    page.close()


def test_undo_of_an_incident_can_be_undone(chromium, fresh_gateway):
    """Undo in the strip removes the block; undo in the notice restores it."""
    page = Page(chromium.new_page(), fresh_gateway.admin).open("now")
    strip = page.locator("section.strip").first
    strip.get_by_role("button", name="Undo").click()
    page.locator(".toast").filter(has_text="Restrictions removed").wait_for()
    assert ask(fresh_gateway, ATTACKER, KEY, "hello") == 200
    page.keyboard.press("u")
    page.locator(".toast").filter(has_text="Restrictions restored").wait_for()
    assert ask(fresh_gateway, ATTACKER, KEY, "hello") == 403
    (row,) = [
        b
        for b in fresh_gateway.api("GET", "/api/v1/blocks")["items"]
        if b["id"] == ATTACKER
    ]
    assert row["by"] == "detector"
    page.close()


def test_acknowledge_is_delayed_and_can_be_cancelled(chromium, fresh_gateway):
    """Cancelled within 5 s it is not sent; leaving the page sends it at once."""
    page = Page(chromium.new_page(), fresh_gateway.admin).open(
        incident_of(fresh_gateway)
    )
    page.get_by_role("button", name="Acknowledge").click()
    page.get_by_role("button", name="Acknowledging").wait_for()
    page.keyboard.press("u")
    page.locator(".toast").filter(has_text="Cancelled").wait_for()
    assert acknowledged(fresh_gateway) is None
    page.get_by_role("button", name="Acknowledge").click()
    page.get_by_role("button", name="Acknowledging").wait_for()
    page.goto("about:blank")
    until(lambda: acknowledged(fresh_gateway), 30)
    page.close()


def acknowledged(gateway):
    """The acknowledgement of the newest incident, or None."""
    return gateway.api("GET", "/api/v1/incidents")["items"][0]["acknowledged"]


def test_an_incident_shows_evidence_clients_actions_and_impact(tab, gateway):
    """The incident page shows the figures of the API in each section."""
    page = tab.open(incident_of(gateway))
    one = gateway.api("GET", f"/api/v1/{incident_of(gateway)}")
    why = page.locator("section[aria-label=Why]").inner_text()
    assert all(reason in why for reason in one["reasons"])
    assert f"{one['observed']['requests_1m']:,.0f}" in why
    clients = page.locator("section[aria-label=Clients] tbody tr").first.inner_text()
    assert "100 %" in clients
    actions = page.locator("section[aria-label=Actions]").inner_text()
    assert "Blocked" in actions
    assert "Incident opened" in actions
    impact = page.locator("section[aria-label='Before and after']").inner_text()
    assert "Without action it would have spent" in impact
    assert f"{one['impact']['after']['requests']:,}" in impact


def test_a_zoomed_range_is_kept_in_the_url(tab):
    """Dragging on a chart zooms; the range survives a reload; a double click leaves it."""
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


def test_the_selected_row_survives_an_update(tab):
    """A row selected with j stays selected and focused after the next update."""
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


def test_a_long_client_id_fits_the_dialog(tab):
    """The buttons stay reachable and the page does not scroll sideways."""
    name = "x" * 250
    page = tab.open(f"clients?q={name}")
    page.get_by_role("button", name="Block").click()
    cancel = page.locator("dialog").get_by_role("button", name="Cancel")
    cancel.click()
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0


def test_keyboard_shortcuts(tab):
    """Digits switch views, j and Enter open rows, / searches, ? shows the help."""
    page = tab.open("now")
    page.keyboard.press("3")
    page.get_by_role("heading", name="Clients in the last hour").wait_for()
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


def test_a_gateway_without_traffic_shows_how_to_send_some(chromium):
    """Without traffic, the first view shows the base URL for clients."""
    with running_mock() as mock, running_gateway(config_of(mock)) as gateway:
        tab = Page(chromium.new_page(), gateway.admin)
        page = tab.open("now")
        assert page.get_by_text("No traffic yet").is_visible()
        assert page.get_by_text(f"http://127.0.0.1:{gateway.port}/v1").is_visible()
        assert page.get_by_text("Normal", exact=False).first.is_visible()
        tab.page.close()
        assert tab.problems == []


def test_an_attack_shows_without_a_reload(chromium):
    """Charts and the incident strip update live while an attack runs."""
    with running_mock() as mock, running_gateway(config_of(mock)) as gateway:
        tab = Page(chromium.new_page(), gateway.admin)
        page = tab.open("now")
        page.wait_for_timeout(1500)
        received = page.locator("section[aria-label=Requests] .now")
        until(lambda: received.inner_text() == "0")
        stop = threading.Event()
        with in_background(attack, gateway, stop):
            until(lambda: float(received.inner_text().replace(",", "")) >= 1)
            page.locator("section.strip").wait_for()
            stop.set()
        tab.page.close()
        assert tab.problems == []


def test_lost_live_updates_are_shown(chromium):
    """When the gateway stops answering, the page says that its data is stale."""
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
    """A wrong token is rejected; the session cookie cannot be read by scripts."""
    monkeypatch.setenv("T", "operator-token")
    monkeypatch.setenv("V", "viewer-token")
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
            page.get_by_label("Token").fill("viewer-token")
            page.get_by_role("button", name="Sign in").click()
            page.get_by_role("heading", name="Now", exact=True).wait_for()
            assert page.evaluate("document.cookie") == ""
            assert call("GET", f"{gw.admin}/api/v1/status")[0] == 401
            page.context.close()


def test_maintenance_windows_once_and_weekly(tab, gateway):
    """Windows scheduled in the form are stored as given and can be ended."""
    page = tab.open("alerts")
    page.get_by_text("No silences").wait_for()
    page.get_by_role("button", name="Schedule a window").click()
    page.get_by_label("Repeat").select_option("weekly")
    zone = zone_without_sunday()
    page.get_by_label("Time zone").fill(zone)
    page.get_by_label("Reason").fill("backups")
    page.wait_for_timeout(100)
    assert serious_violations(page) == []
    page.get_by_role("button", name="Schedule", exact=True).click()
    page.get_by_text(f"weekly on Sun 02:00\u201304:00 {zone}").wait_for()
    page.get_by_role("button", name="Schedule a window").click()
    page.get_by_label("Class").select_option("scraping")
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    for name, day in (("from", tomorrow), ("to", tomorrow + timedelta(days=1))):
        page.locator(f"input[name={name}]").fill(f"{day:%Y-%m-%dT%H:%M}")
    page.get_by_role("button", name="Schedule", exact=True).click()
    page.get_by_role("cell", name="scheduled").nth(1).wait_for()
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
    page.get_by_text("No silences").wait_for()


def zone_without_sunday() -> str:
    """A time zone in which the window that the form proposes is not active now."""
    in_berlin = datetime.now(ZoneInfo("Europe/Berlin"))
    return "Pacific/Auckland" if in_berlin.isoweekday() == 7 else "Europe/Berlin"


def test_policies_show_spend_and_refusals_of_observe_mode(chromium):
    """Policies show the API's totals, which survive a restart."""
    with running_mock() as mock:
        config = config_of(mock, "observe").replace("requests = 100000", "requests = 5")
        with running_gateway(config) as gateway:
            tab = Page(chromium.new_page(), gateway.admin)
            text = tab.open("policies").locator("main").inner_text()
            assert "No spend yet" in text
            for n in range(8):
                assert ask(gateway, "127.1.0.1", "sk-1", f"hello {n}") == 200
            spend = until(lambda: spend_of(gateway, 8))
            for would in (spend["would"], spend["would_today"]):
                assert would["requests"] == would["limited"] == 3
            shown = tab.page.locator("main")
            text = "3 requests from 1 client today (3 over a limit)"
            shown.get_by_text(text).wait_for()
            price = shown.get_by_text(f"${spend['usd']:.4f}", exact=True).first
            price.wait_for()
            assert tab.problems == []
            tab.page.close()
            gateway.signal(signal.SIGTERM)
            assert gateway.wait() == 0
            gateway.start()
            assert until(lambda: spend_of(gateway, 8)) == spend


def spend_of(gateway, requests: int) -> dict | None:
    """The spend of the policy once it counts ``requests``, else None."""
    (policy,) = gateway.api("GET", "/api/v1/policies")["items"]
    return policy["spend"] if policy["spend"]["requests"] == requests else None

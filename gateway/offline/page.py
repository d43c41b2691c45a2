"""The report as one self-contained HTML page: inline SVG and styles, no script."""

from __future__ import annotations

from html import escape
from zoneinfo import ZoneInfo

import numpy as np

from gateway.offline.chart import timeline
from gateway.offline.episodes import Episode, episodes
from gateway.offline.findings import Findings
from gateway.offline.table import made_up_by, where
from gateway.offline.words import length, short, span, times

_MOST_EPISODES = 200
_MOST_USERS = 20
_MOST_SKIPPED = 20
_STYLE = """
:root{color-scheme:light dark;--bg:#f7f8fa;--card:#fff;--ink:#1c2430;--soft:#5d6878;
--line:#dfe3ea;--tokens:#5a6a80;--expected:#1f6fd1;--band:#1f6fd1;--red:#cf3a3a;
--amber:#b4690e;--redbg:#fdecec;--amberbg:#fdf3e2}
@media(prefers-color-scheme:dark){:root{--bg:#12161c;--card:#1a2029;--ink:#e6eaf0;
--soft:#96a2b4;--line:#2c3542;--tokens:#a9b6c8;--expected:#5aa2f5;--band:#5aa2f5;
--red:#ff6b6b;--amber:#f0ad4e;--redbg:#3a2023;--amberbg:#372b18}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1180px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:24px;margin:0 0 2px}h2{font-size:17px;margin:32px 0 10px}
p{margin:0 0 10px;color:var(--soft)}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;
padding:16px;overflow-x:auto}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;
margin:18px 0}
.tile{background:var(--card);border:1px solid var(--line);border-radius:10px;
padding:12px 14px}.tile b{display:block;font-size:22px;line-height:1.25}
.tile span{color:var(--soft);font-size:13px}
table{border-collapse:collapse;width:100%;font-size:14px}
th{font-weight:600;text-align:left;color:var(--soft);font-size:12px;
border-bottom:1px solid var(--line);padding:6px 8px;white-space:nowrap}
td{padding:7px 8px;border-bottom:1px solid var(--line);vertical-align:top}
tr:last-child td{border-bottom:0}
.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
.w{white-space:nowrap}.id{overflow-wrap:anywhere;min-width:110px}
.did{overflow-wrap:anywhere;min-width:250px}
.tag{border-radius:99px;padding:1px 9px;font-size:12px;font-weight:600}
.critical{background:var(--redbg);color:var(--red)}
.warning{background:var(--amberbg);color:var(--amber)}
svg{display:block;width:100%;height:auto;min-width:640px}
svg text{fill:var(--soft);font-size:12px}
.grid{stroke:var(--line)}.day{stroke:var(--line);stroke-dasharray:2 4}
.band{fill:var(--band);opacity:.14}.tokens{fill:none;stroke:var(--tokens)}
.expected{fill:none;stroke:var(--expected);stroke-width:1.6}
.flag{fill:var(--red);opacity:.18}.over{fill:var(--red)}
.key{display:flex;gap:18px;flex-wrap:wrap;color:var(--soft);font-size:13px;
margin-top:8px}.key i{display:inline-block;width:14px;height:10px;margin-right:6px;
border-radius:2px}
details{color:var(--soft)}code{font-size:13px}
"""
_KEY = (
    ("var(--tokens)", "tokens of each window"),
    ("var(--expected)", "expected"),
    ("color-mix(in srgb,var(--band) 22%,transparent)", "up to the threshold"),
    ("var(--red)", "abnormal"),
)


def page(report: Findings) -> str:
    """The whole page."""
    zone = ZoneInfo(report.zone)
    found = episodes(report.windows, report.window_s)
    when = span(report.start, report.end, zone)
    when += f" {report.zone}, windows of {length(report.window_s)}"
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width,initial-scale=1'>",
        f"<title>Tidegate: where traffic was abnormal</title><style>{_STYLE}</style>",
        "<main><h1>Where traffic was abnormal</h1>",
        f"<p>{escape(when)}</p>",
        _tiles(report, found),
        f"<div class=card>{timeline(report, zone)}{_key()}</div>",
        _episodes([one for one in found if one.kind == "all"], zone, "The service"),
        _episodes([one for one in found if one.kind == "user"], zone, "Users"),
        _top_users(report),
        _how(report),
        _skipped(report),
        "</main></html>\n",
    ]
    return "\n".join(parts)


def _tiles(report: Findings, found: list[Episode]) -> str:
    whole = [one for one in report.windows if one.kind == "all"]
    excess = sum(max(0, one.tokens - one.expected) for one in whole)
    tokens = float(np.sum(report.timeline.tokens))
    users = len({one.subject for one in found if one.kind == "user"})
    tiles = [
        (f"{report.rows:,}", "requests"),
        (short(tokens), "tokens"),
        (f"{report.users:,}" if report.users else "\u2013", "users"),
        (f"{len(whole):,}", f"abnormal windows of {len(report.timeline.tokens):,}"),
        (short(excess), "tokens beyond the expectation"),
        (f"{users:,}", "users with a spike"),
    ]
    inner = "".join(
        f"<div class=tile><b>{a}</b><span>{b}</span></div>" for a, b in tiles
    )
    return f"<div class=tiles>{inner}</div>"


def _key() -> str:
    inner = "".join(
        f"<span><i style='background:{color}'></i>{name}</span>" for color, name in _KEY
    )
    return f"<div class=key>{inner}</div>"


def _episodes(found: list[Episode], zone: ZoneInfo, title: str) -> str:
    if not found:
        return f"<h2>{title}</h2><p>Nothing abnormal.</p>"
    head = ("", "when", "for", "class", "tokens", "expected", "", "score")
    users = found[0].kind == "user"
    names = [*head[:2], *(["user"] if users else []), *head[2:]]
    names.append("what they did" if users else "made up by")
    rows = "".join(_episode(one, zone) for one in found[:_MOST_EPISODES])
    more = len(found) - _MOST_EPISODES
    note = f"<p>and {more:,} more</p>" if more > 0 else ""
    return f"<h2>{title}</h2>{_table(names, rows)}{note}"


def _episode(one: Episode, zone: ZoneInfo) -> str:
    user = f"<td class=id>{escape(one.subject)}</td>" if one.kind == "user" else ""
    return (
        f"<tr><td><span class='tag {one.severity}'>{one.severity}</span></td>"
        f"<td class=w>{span(one.start, one.end, zone)}</td>{user}"
        f"<td class=w>{length(one.end - one.start)}</td><td class=w>{one.cls}</td>"
        f"<td class=n>{short(one.tokens)}</td><td class=n>{short(one.expected)}</td>"
        f"<td class=n>{times(one.tokens, one.expected)}</td>"
        f"<td class=n>{one.score:.1f}</td><td class=did>{_whole(made_up_by(one))}</td></tr>"
    )


def _whole(words: str) -> str:
    """No line ends between a figure and its sign."""
    return escape(words).replace(" %", "&nbsp;%")


def _top_users(report: Findings) -> str:
    """Who had most of the abnormal windows of the service."""
    sums: dict[str, list[float]] = {}
    for window in report.windows:
        if window.kind == "all":
            for share in window.top_users:
                held = sums.setdefault(share.user, [0.0, 0.0, 0.0, 0.0])
                held[0] += share.tokens
                held[1] += share.requests
                held[2] += share.expected
                held[3] += 1
    if not sums:
        return ""
    best = sorted(sums.items(), key=lambda item: -item[1][0])[:_MOST_USERS]
    rows = "".join(
        f"<tr><td class=id>{escape(user)}</td><td class=n>{short(held[0])}</td>"
        f"<td class=n>{short(held[2])}</td><td class=n>{held[1]:,.0f}</td>"
        f"<td class=n>{short(held[0] / max(1.0, held[1]))}</td>"
        f"<td class=n>{held[3]:.0f}</td></tr>"
        for user, held in best
    )
    names = ("user", "tokens", "expected", "requests", "tokens each", "windows")
    return f"<h2>Top users of the abnormal windows</h2>{_table(names, rows)}"


def _table(names: tuple[str, ...] | list[str], rows: str) -> str:
    numbers = {"tokens", "expected", "score", "requests", "tokens each", "windows"}
    head = "".join(
        f"<th{' class=n' if name in numbers else ''}>{name}</th>" for name in names
    )
    return f"<div class=card><table><tr>{head}</tr>{rows}</table></div>"


def _how(report: Findings) -> str:
    held = report.threshold
    return (
        "<h2>How windows were judged</h2><p>Each window stands against what the rest of "
        "this log shows for it: the tide of the day and the level of those hours, on a "
        "log scale. What stood out was dropped and the rest fitted again, so attacks do "
        "not hide each other. A window is abnormal when it is beyond the tail of the "
        f"ordinary (score 3; 5 is critical) by at least {short(held['least_excess'])} "
        f"tokens; an ordinary window has {short(held['median_window'])}. Users are "
        "compared with their own busy windows on other days.</p>"
    )


def _skipped(report: Findings) -> str:
    if not report.skipped:
        return ""
    rows = "".join(
        f"<li>{escape(where(one.line, one.file))}: {escape(one.why)}</li>"
        for one in report.skipped_rows[:_MOST_SKIPPED]
    )
    return (
        f"<details><summary>{report.skipped:,} rows could not be used</summary>"
        f"<ul>{rows}</ul></details>"
    )

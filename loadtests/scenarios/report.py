"""The figures of several runs, as tables for people and as one JSON object."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from loadtests.scenarios.tally import Episode, Result, quantile

WEEK_DAYS = 7.0


class Goal(msgspec.Struct, frozen=True):
    """One figure that the detector has to reach."""

    name: str
    value: float
    wanted: str
    met: bool


def _share(hits: int, of: int) -> float:
    return hits / of if of else float("nan")


def group(episodes: Sequence[Episode]) -> dict[str, float]:
    """The figures of a group of episodes; delays in seconds, tokens per episode."""
    caught = [e for e in episodes if e.detected_after is not None]
    delays = [e.detected_after for e in caught if e.detected_after is not None]
    named = [e for e in caught if e.named]
    opened = [float(e.incidents) for e in caught if e.incidents]
    return {
        "episodes": float(len(episodes)),
        "recall": _share(len(caught), len(episodes)),
        "delay_p50": quantile(delays, 0.5),
        "delay_p95": quantile(delays, 0.95),
        "right_class": _share(sum(e.right for e in named), len(named)),
        "refused": _share(
            sum(e.refused_after for e in caught), sum(e.sent_after for e in caught)
        ),
        "refused_median": quantile([e.refused_share for e in caught], 0.5),
        "acted": _share(
            sum(e.acted_after is not None for e in episodes), len(episodes)
        ),
        "tokens_lost": quantile([float(e.tokens_before) for e in episodes], 0.5),
        "incidents": sum(opened) / len(opened) if opened else float("nan"),
    }


def named_as(episodes: Sequence[Episode]) -> dict[str, int]:
    """How often the episodes were given which class; the last name counts."""
    return dict(Counter(e.named for e in episodes if e.named).most_common())


def _groups(runs: Sequence[Result]) -> dict[str, list[Episode]]:
    """Episodes by class and difficulty, and all together."""
    grouped: dict[str, list[Episode]] = {}
    every = [episode for run in runs for episode in run.episodes]
    for episode in sorted(every, key=lambda e: (e.cls, e.difficulty)):
        grouped.setdefault(f"{episode.cls} {episode.difficulty}", []).append(episode)
    for difficulty in ("easy", "hard"):
        grouped[f"all {difficulty}"] = [e for e in every if e.difficulty == difficulty]
    grouped["all"] = every
    return grouped


def _kinds(runs: Sequence[Result]) -> dict[str, list[Episode]]:
    """Episodes by the name of what was done."""
    grouped: dict[str, list[Episode]] = {}
    every = [episode for run in runs for episode in run.episodes]
    for episode in sorted(every, key=lambda e: (e.name, e.difficulty)):
        grouped.setdefault(f"{episode.name} {episode.difficulty}", []).append(episode)
    return grouped


def _summed(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(total.most_common())


def surroundings(runs: Sequence[Result]) -> dict[str, Any]:
    """What happened to everybody else, all runs together."""
    worlds = [run.world for run in runs]
    weeks = sum(world.days for world in worlds) / WEEK_DAYS
    subjects = sum(world.subjects for world in worlds)
    touched = sum(len(world.touched) for world in worlds)
    events = sum(world.events for world in worlds)
    making = sum(world.making_s for world in worlds)
    watching = sum(world.watching_s for world in worlds)
    innocent = sum(world.innocent_requests for world in worlds)
    names = {name for world in worlds for name in world.honest_incidents}
    return {
        "events": events,
        "subjects": subjects,
        "innocent_touched": touched,
        "innocent_touched_share": _share(touched, subjects),
        "touched_by": _summed(world.touched_by for world in worlds),
        "innocent_tagged": sum(world.tagged for world in worlds),
        "innocent_refused_share": _share(
            sum(world.innocent_refused for world in worlds), innocent
        ),
        "false_incidents_a_week": sum(w.false_incidents for w in worlds) / weeks,
        "false_by": _summed(world.false_by for world in worlds),
        "false_information_a_week": sum(w.false_information for w in worlds) / weeks,
        "honest_crowds_named": _share(
            sum(w.honest_named for w in worlds), sum(w.honest_nameable for w in worlds)
        ),
        "incidents_per_honest_cause": {
            name: sum(w.honest_incidents.get(name, 0.0) for w in worlds) / len(worlds)
            for name in sorted(names)
        },
        "false_window_share": _share(
            sum(w.false_windows for w in worlds), sum(w.windows for w in worlds)
        ),
        "generator_events_per_s": events / making if making else float("nan"),
        "detector_events_per_s": events / watching if watching else float("nan"),
    }


def summary(runs: Sequence[Result]) -> dict[str, Any]:
    """Everything about one detector as plain values."""
    return {
        "seeds": [run.world.seed for run in runs],
        "by_class": {name: group(of) for name, of in _groups(runs).items()},
        "by_kind": {
            name: {**group(of), "named_as": named_as(of)}
            for name, of in _kinds(runs).items()
        },
        "surroundings": surroundings(runs),
        "goals": [msgspec.to_builtins(goal) for goal in goals(runs)],
        "episodes": [e for run in runs for e in run.episodes],
    }


# -- goals -------------------------------------------------------------------------------


def _at_least(name: str, value: float, wanted: float) -> Goal:
    return Goal(name, value, f">= {wanted:g}", value >= wanted)


def _at_most(name: str, value: float, wanted: float) -> Goal:
    return Goal(name, value, f"<= {wanted:g}", value <= wanted)


def goals(runs: Sequence[Result]) -> list[Goal]:
    """What the detector has to reach, with what it reached."""
    if not runs:
        return []
    every = [episode for run in runs for episode in run.episodes]
    loud = group([e for e in every if e.loud])
    quiet = group([e for e in every if not e.loud])
    whole, hard = group(every), group([e for e in every if e.difficulty == "hard"])
    others = surroundings(runs)
    made = [
        _at_least("recall", whole["recall"], 0.95),
        _at_least("recall, hard", hard["recall"], 0.85),
    ]
    for cls in sorted({e.cls for e in every}):
        of = group([e for e in every if e.cls == cls])
        made.append(_at_least(f"recall, {cls}", of["recall"], 0.9))
    return [
        *made,
        _at_least("right class", whole["right_class"], 0.9),
        _at_most("delay of loud ones, median s", loud["delay_p50"], 10),
        _at_most("delay of loud ones, p95 s", loud["delay_p95"], 30),
        _at_most("delay of slow ones, p95 s", quiet["delay_p95"], 300),
        _at_least("requests refused after detection", whole["refused"], 0.9),
        _at_most("incidents per cause", whole["incidents"], 1.5),
        _at_most("false incidents a week", others["false_incidents_a_week"], 5),
        _at_most("innocent touched, share", others["innocent_touched_share"], 0.0005),
        _at_most("windows falsely flagged", others["false_window_share"], 0.001),
    ]


# -- tables ------------------------------------------------------------------------------


def show(console: Console, by_detector: dict[str, list[Result]]) -> None:
    """All tables of all detectors."""
    for name, runs in by_detector.items():
        _show_groups(console, f"{name}: by class", _groups(runs))
        if name == "tidegate":
            _show_groups(console, f"{name}: by kind of attack", _kinds(runs))
    _show_surroundings(console, by_detector)
    _show_goals(console, by_detector)


def _show_groups(
    console: Console, title: str, grouped: dict[str, list[Episode]]
) -> None:
    table = Table(title=title, title_justify="left")
    table.add_column("attacks")
    for column in ("n", "recall", "p50 s", "p95 s", "class", "acted", "refused"):
        table.add_column(column, justify="right")
    table.add_column("tokens lost", justify="right")
    table.add_column("incidents", justify="right")
    table.add_column("named")
    for name, episodes in grouped.items():
        figures = group(episodes)
        table.add_row(
            name,
            f"{figures['episodes']:.0f}",
            _percent(figures["recall"]),
            f"{figures['delay_p50']:.0f}",
            f"{figures['delay_p95']:.0f}",
            _percent(figures["right_class"]),
            _percent(figures["acted"]),
            _percent(figures["refused"]),
            f"{figures['tokens_lost']:,.0f}",
            f"{figures['incidents']:.1f}",
            " ".join(f"{cls} {n}" for cls, n in named_as(episodes).items()),
        )
    console.print(table)


def _percent(share: float) -> str:
    return "-" if share != share else f"{100 * share:.0f} %"  # noqa: PLR0124


def _show_surroundings(console: Console, by_detector: dict[str, list[Result]]) -> None:
    table = Table(title="everybody else", title_justify="left")
    table.add_column("")
    for name in by_detector:
        table.add_column(name, justify="right", overflow="fold")
    columns = [surroundings(runs) for runs in by_detector.values()]
    for key in columns[0] if columns else ():
        table.add_row(key.replace("_", " "), *(_cell(of[key]) for of in columns))
    console.print(table)


def _cell(value: float | dict[str, float]) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name} {_cell(count)}" for name, count in value.items())
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"


def _show_goals(console: Console, by_detector: dict[str, list[Result]]) -> None:
    table = Table(title="goals", title_justify="left")
    table.add_column("")
    table.add_column("wanted", justify="right")
    rows: dict[str, list[str]] = {}
    for name, runs in by_detector.items():
        table.add_column(name, justify="right")
        for goal in goals(runs):
            cell = _cell(goal.value) + (" yes" if goal.met else " no")
            rows.setdefault(goal.name, [goal.wanted]).append(cell)
    for name, cells in rows.items():
        table.add_row(name, *cells)
    console.print(table)

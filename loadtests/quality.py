"""Quality of the detector on labelled worlds, compared with three plain rules.

usage: python -m loadtests.quality [--profile fast|full|long] [--seeds 1,2,3]
                                   [--detectors tidegate,rules] [--json] [--check]

Profiles: ``fast`` (200 users, 3 days, under a minute), ``full`` (3,000 users, 8 days),
``long`` (3,000 users, 14 days). ``--users``, ``--days``, ``--rate`` override.

Prints recall and delay by class and difficulty, the actions on ordinary clients, and
the same for three plain rules. ``--check`` exits with 1 when Tidegate's detector misses
a goal.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from loadtests.scenarios.detectors import Detector
from loadtests.scenarios.labels import Ledger
from loadtests.scenarios.loop import Loop
from loadtests.scenarios.product import EngineDetector
from loadtests.scenarios.report import goals, show, summary
from loadtests.scenarios.rules import RULES
from loadtests.scenarios.tally import Result, Tally
from loadtests.scenarios.world import Settings, World

PROFILES = {
    "fast": Settings(users=200, days=3),
    "full": Settings(users=3000, days=8),
    "long": Settings(users=3000, days=14),
}
WIDTH = 140
RULE_NAMES = [rule.name for rule in RULES]
Maker = Callable[[Ledger], Detector]


def makers() -> dict[str, Maker]:
    """Factories of all detectors by name."""
    made: dict[str, Maker] = {rule.name: rule.knowing for rule in RULES}
    return {EngineDetector.name: EngineDetector.knowing} | made


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", choices=PROFILES, default="fast")
    parser.add_argument("--seeds", default="1", help="comma-separated")
    parser.add_argument("--detectors", default="tidegate,rules")
    parser.add_argument("--users", type=int)
    parser.add_argument("--days", type=float)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true")
    return parser.parse_args()


def settings_of(args: argparse.Namespace) -> Iterator[Settings]:
    """One world per seed."""
    wanted = {
        name: getattr(args, name)
        for name in ("users", "days", "rate")
        if getattr(args, name) is not None
    }
    base = msgspec.structs.replace(PROFILES[args.profile], **wanted)
    for seed in args.seeds.split(","):
        yield msgspec.structs.replace(base, seed=int(seed))


def chosen(args: argparse.Namespace) -> dict[str, Maker]:
    """The selected detectors; ``rules`` means all plain rules."""
    every = makers()
    names: list[str] = []
    for name in args.detectors.split(","):
        names += RULE_NAMES if name == "rules" else [name]
    unknown = [name for name in names if name not in every]
    if unknown:
        sys.exit(f"no such detector: {', '.join(unknown)}; one of {', '.join(every)}")
    return {name: every[name] for name in names}


def judged(
    name: str, maker: Maker, settings: Settings, progress: Callable[[float], None]
) -> Result:
    """The result of one detector on one world."""
    world = World(settings)
    tally = Tally(world, name)
    loop = Loop(maker(world.ledger), world.ledger, tally)
    return tally.result(*loop.run(world, progress))


def all_results(args: argparse.Namespace, console: Console) -> list[Result]:
    """Results of every detector on every world, with progress bars."""
    results = []
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with bars:
        for name, maker in chosen(args).items():
            for settings in settings_of(args):
                bar = bars.add_task(f"{name}, seed {settings.seed}", total=1.0)

                def step(share: float, bar: Any = bar) -> None:
                    bars.update(bar, completed=share)

                results.append(judged(name, maker, settings, step))
    return results


def wide(console: Console) -> Console:
    """A console; files and pipes get a width for tables."""
    if not console.is_terminal:
        console.width = WIDTH
    return console


def main() -> int:
    """Run, print, and compare with the goals."""
    args = arguments()
    results = all_results(args, Console(stderr=True))
    by_detector: dict[str, list[Result]] = {}
    for result in results:
        by_detector.setdefault(result.detector, []).append(result)
    if args.json:
        out = {name: summary(runs) for name, runs in by_detector.items()}
        print(msgspec.json.format(msgspec.json.encode(out)).decode())
    else:
        show(wide(Console()), by_detector)
    missed = [
        goal for goal in goals(by_detector.get(EngineDetector.name, [])) if not goal.met
    ]
    return 1 if args.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())

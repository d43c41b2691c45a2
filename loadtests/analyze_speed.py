"""Speed and memory of ``analyze``, compared with plain pandas.

usage: python -m loadtests.analyze_speed [--rows 10000000] [--users 3000] [--dir DIR]
                                         [--only analyze|pandas]

Writes a seeded week of requests (CSV) and runs both in separate processes. The pandas
program reads, parses the times, sums by window and user, and compares each window with
the median and deviation of its time of day.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

START_MS = 1_767_571_200_000
WEEK_MS = 7 * 86_400_000
BLOCK = 1_000_000


def write_week(path: Path, rows: int, users: int) -> None:
    """Write a week of rows in order of time."""
    rng = np.random.default_rng(1)
    with path.open("wb") as file:
        file.write(
            b"timestamp,user_id,client_ip,model,prompt_tokens,completion_tokens\n"
        )
        for at in range(0, rows, BLOCK):
            count = min(BLOCK, rows - at)
            span = WEEK_MS * count // rows
            times = np.sort(rng.integers(0, span, count)) + WEEK_MS * at // rows
            user = (rng.pareto(1.2, count) * 30).astype(np.int64) % users
            moments = pl.Series(START_MS + times).cast(pl.Datetime("ms"))
            numbers = pl.Series(user)
            block = pl.DataFrame(
                {
                    "timestamp": moments.dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ"),
                    "user": "user-" + numbers.cast(pl.String),
                    "ip": "10.0.0." + (numbers % 250).cast(pl.String),
                    "model": pl.Series(["atlas-mini"] * count),
                    "prompt": rng.lognormal(6, 1, count).astype(np.int64),
                    "completion": rng.lognormal(5, 1, count).astype(np.int64),
                }
            )
            block.write_csv(file, include_header=False)


def plain_pandas(path: str) -> int:
    """The pandas program; the number of abnormal windows."""
    import pandas as pd  # noqa: PLC0415 - measured from here

    frame = pd.read_csv(path)
    frame["timestamp"] = pd.to_datetime(frame["timestamp"])
    frame["tokens"] = frame["prompt_tokens"] + frame["completion_tokens"]
    frame["window"] = frame["timestamp"].dt.floor("5min")
    users = frame.groupby(["user_id", "window"], observed=True)["tokens"].sum()
    total = frame.groupby("window")["tokens"].sum()
    found = int(_odd(total.to_frame("tokens").reset_index(), ["slot"]).sum())
    return found + int(_odd(users.reset_index(), ["user_id", "slot"]).sum())


def _odd(sums, by):  # noqa: ANN001, ANN202 - frames of pandas, which is optional
    sums["slot"] = sums["window"].dt.hour
    groups = sums.groupby(by, observed=True)["tokens"]
    middle = groups.transform("median")
    off = (sums["tokens"] - middle).abs()
    spread = off.groupby([sums[name] for name in by]).transform("median")
    return sums["tokens"] > middle + 8 * spread


def measure(command: list[str]) -> tuple[float, float, bytes]:
    """Run a process; its seconds, peak MB and output."""
    begin = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert child.stdout is not None
    out = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    took = time.perf_counter() - begin
    if status:
        sys.exit(f"{' '.join(command)}: failed")
    return took, usage.ru_maxrss / 1000, out


def main() -> None:
    """Measure both and print one line each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--users", type=int, default=3000)
    parser.add_argument("--dir")
    parser.add_argument("--only", choices=("analyze", "pandas"))
    parser.add_argument("--pandas-on", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.pandas_on:
        print(plain_pandas(args.pandas_on))
        return
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        path = Path(folder) / "week.csv"
        write_week(path, args.rows, args.users)
        print(f"{args.rows:,} rows, {path.stat().st_size / 1e6:,.0f} MB of CSV")
        seconds = {}
        if args.only != "pandas":
            command = [sys.executable, "-m", "gateway", "analyze", str(path), "--json"]
            seconds["analyze"], peak, out = measure(command)
            assert json.loads(out)["rows"] == args.rows
            print(f"tidegate analyze  {seconds['analyze']:6.1f} s  {peak:6.0f} MB")
        if args.only != "analyze":
            command = [sys.executable, "-m", "loadtests.analyze_speed"]
            seconds["pandas"], peak, _ = measure([*command, "--pandas-on", str(path)])
            print(f"plain pandas      {seconds['pandas']:6.1f} s  {peak:6.0f} MB")
        if len(seconds) > 1:
            print(f"{seconds['pandas'] / seconds['analyze']:.1f} times as fast")


if __name__ == "__main__":
    main()

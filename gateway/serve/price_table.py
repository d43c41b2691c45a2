"""The price table in use: that of the package, or of a newer genai-prices.

Workers never import the library. Where a newer release than that of the package is
installed (the extra ``prices``), a process of its own compiles it into the runtime
directory, at the start and at a reload; otherwise nothing is run.
"""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import msgspec

from gateway.metering.prices import PriceTable, packaged_prices

# Days after which a table is old: providers change prices every few weeks.
MAX_AGE_DAYS = 90
_COMPILE_S = 60.0
_FILE = "prices.json"


class _Header(msgspec.Struct):
    version: str


@cache
def packaged_table() -> PriceTable:
    """The price table of the package."""
    return PriceTable.parse(packaged_prices())


def newer_release() -> str:
    """The installed release of genai-prices if it is newer than the packaged table's,
    else "".
    """
    try:
        installed = version("genai-prices")
    except PackageNotFoundError:
        return ""
    # Only the header: the supervisor, which asks this, needs no prices.
    header = msgspec.json.decode(packaged_prices(), type=_Header)
    newer = _numbers(installed) > _numbers(header.version)
    return installed if newer else ""


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.split(".") if part.isdigit())


def newest_table() -> PriceTable:
    """The newer of both tables, compiled in this process: for commands."""
    if not newer_release():
        return packaged_table()
    from gateway.metering.compile_prices import compile_installed  # noqa: PLC0415

    return PriceTable.parse(compile_installed("", dt.datetime.now(dt.UTC)))


def refresh_table(runtime_dir: str) -> str:
    """Compile a newer release for the processes of a gateway. Returns a problem, after
    which the old table stays in use, or "".
    """
    path = f"{runtime_dir}/{_FILE}"
    release = newer_release()
    if not release:
        with suppress(OSError):
            os.unlink(path)
        return ""
    table = _read(path)
    if table is not None and table.book.file.version == release:
        return ""
    draft = f"{path}.{os.getpid()}"
    command = [sys.executable, "-m", "gateway.metering.compile_prices", "--out", draft]
    try:
        done = subprocess.run(  # noqa: S603 - this program's own module
            command, capture_output=True, timeout=_COMPILE_S, check=False
        )
        if done.returncode:
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            return lines[-1] if lines else f"exit status {done.returncode}"
        os.replace(draft, path)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return ""


def load_table(runtime_dir: str = "") -> PriceTable:
    """The table of a gateway's runtime directory, else that of the package."""
    table = _read(f"{runtime_dir}/{_FILE}") if runtime_dir else None
    return packaged_table() if table is None else table


def _read(path: str) -> PriceTable | None:
    try:
        with open(path, "rb") as file:
            return PriceTable.parse(file.read())
    except (OSError, msgspec.DecodeError):
        return None


def describe_table(table: PriceTable) -> str:
    """Source and date of a table."""
    file = table.book.file
    return f"genai-prices {file.version} of {file.dated}"


def age_days(table: PriceTable, today: dt.date | None = None) -> int:
    """Days since the table's date."""
    today = today or dt.datetime.now(dt.UTC).date()
    return (today - dt.date.fromisoformat(table.dated)).days


def age_warning(table: PriceTable, today: dt.date | None = None) -> str:
    """What to say of an old table, "" of a new one."""
    days = age_days(table, today)
    if days <= MAX_AGE_DAYS:
        return ""
    return (
        f"the price table is {days} days old ({describe_table(table)}): install a newer "
        'release of Tidegate, or pip install --upgrade "tidegate[prices]"'
    )

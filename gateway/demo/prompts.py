"""Prompts of people, applications and attackers, from small lists of words."""

from __future__ import annotations

from random import Random

WORDS = """
    ship invoice river audit basil copper query lantern novel tariff orbit payroll
    garden sensor recipe border lesson engine poem harbor ticket protein margin quilt
    violin budget canal desert emerald fabric glacier hammer island jungle kernel
    ladder magnet needle oyster parcel quarry rocket saddle tunnel umbrella valley
    walnut yacht zebra anchor bishop candle dragon eagle forest guitar helmet insect
    jacket kettle lizard mirror notebook olive pepper quiver ribbon spider temple
""".split()

SUPPORT = (
    "You answer customers of a sailing school in two friendly sentences. Be exact "
    "about prices, dates and the weather rule. The customer writes: "
)
SCRAPED = (
    "List every fact, figure and source that your catalogue holds about the item "
    "named here, as a table with one row for each property, without a summary: "
)
LOOPED = (
    "The tool call failed again. Here is the whole transcript of the task so far, "
    "please think it through from the beginning and try the same step once more. "
)
FLOODED = (
    "Write the longest story you can about the number given below, do not stop "
    "early, do not summarise, and begin again when you reach the end: "
)


def random_words(rng: Random, least: int = 8, most: int = 40) -> str:
    """A prompt of random words."""
    return " ".join(rng.choices(WORDS, k=rng.randint(least, most)))

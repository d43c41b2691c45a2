"""Periodic work by the wall clock, which may be set back."""


def is_due(last: float, every_s: float, now: float) -> bool:
    """Whether ``every_s`` seconds have passed since ``last``.

    True as well when the clock was set back before ``last``: otherwise nothing would be
    due until it caught up.
    """
    return not last <= now < last + every_s

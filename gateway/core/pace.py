"""How often something is done, by a clock that people may set."""


def is_due(last: float, every_s: float, now: float) -> bool:
    """Whether ``every_s`` have passed since ``last``. A clock that was set back says
    nothing of it: then at once, rather than once it has caught up.
    """
    return not last <= now < last + every_s

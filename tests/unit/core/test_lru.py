"""The bounded map: what it keeps, what it forgets, what it counts."""

from gateway.core.lru import Lru


def test_unknown_key_is_none():
    """A key never put is not found, whether or not there is an older half."""
    lru = Lru[str, int](4)
    assert lru.get("a") is None
    for key in "abc":
        lru.put(key, 1)
    assert lru.get("z") is None


def test_entries_in_use_survive_any_number_of_strangers():
    """What is asked for between two turns stays, strangers are forgotten."""
    lru = Lru[int, str](10)
    lru.put(-1, "regular")
    for stranger in range(100):
        lru.put(stranger, "x")
        assert lru.get(-1) == "regular"
    assert lru.get(3) is None


def test_size_never_exceeds_capacity_and_evictions_are_counted():
    """Entries held plus entries evicted is all that was put."""
    lru = Lru[int, int](10)
    for number in range(57):
        lru.put(number, number)
        assert len(lru) <= 10
    assert len(lru) + lru.evictions == 57


def test_putting_a_known_key_evicts_nobody():
    """A new value takes the old one's place, in either half."""
    lru = Lru[str, int](4)
    for key in "abc":
        lru.put(key, 1)
    lru.put("a", 2)
    lru.put("a", 3)
    assert (lru.get("a"), len(lru), lru.evictions) == (3, 3, 0)


def test_pop_finds_young_and_old_entries():
    """A popped entry is returned once and gone afterwards."""
    lru = Lru[str, int](4)
    for key in "abc":
        lru.put(key, ord(key))
    assert [lru.pop("a"), lru.pop("c"), lru.pop("c")] == [97, 99, None]
    assert len(lru) == 1


def test_clear_forgets_all():
    """Nothing is found after clearing."""
    lru = Lru[str, int](4)
    for key in "abc":
        lru.put(key, 1)
    lru.clear()
    assert len(lru) == 0
    assert lru.get("a") is None

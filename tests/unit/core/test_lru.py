"""The bounded map: look-ups, eviction and its counter."""

from gateway.core.lru import Lru


def test_unknown_key_is_none():
    """The value of a key never put is None, with or without an old half."""
    lru = Lru[str, int](4)
    assert lru.get("a") is None
    for key in "abc":
        lru.put(key, 1)
    assert lru.get("z") is None


def test_entries_in_use_survive_any_number_of_new_ones():
    """Entries that are read between two turns stay; entries that are not are dropped."""
    lru = Lru[int, str](10)
    lru.put(-1, "regular")
    for stranger in range(100):
        lru.put(stranger, "x")
        assert lru.get(-1) == "regular"
    assert lru.get(3) is None


def test_size_never_exceeds_capacity_and_evictions_are_counted():
    """Entries held plus evictions equal the number of entries put."""
    lru = Lru[int, int](10)
    for number in range(57):
        lru.put(number, number)
        assert len(lru) <= 10
    assert len(lru) + lru.evictions == 57


def test_putting_a_known_key_evicts_nothing():
    """Putting a known key replaces its value in either half, without an eviction."""
    lru = Lru[str, int](4)
    for key in "abc":
        lru.put(key, 1)
    lru.put("a", 2)
    lru.put("a", 3)
    assert (lru.get("a"), len(lru), lru.evictions) == (3, 3, 0)


def test_pop_finds_young_and_old_entries():
    """Popping returns an entry of either half once; then it is gone."""
    lru = Lru[str, int](4)
    for key in "abc":
        lru.put(key, ord(key))
    assert [lru.pop("a"), lru.pop("c"), lru.pop("c")] == [97, 99, None]
    assert len(lru) == 1


def test_clear_removes_all():
    """After clearing, no entry is found."""
    lru = Lru[str, int](4)
    for key in "abc":
        lru.put(key, 1)
    lru.clear()
    assert len(lru) == 0
    assert lru.get("a") is None

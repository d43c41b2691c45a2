"""Acknowledged calls of the last seconds, for a store that loses them in a failover."""

from __future__ import annotations

from collections import deque

from gateway.store import wire

# The store keeps a worker's last call number for a day. A worker idle for longer than
# this may have outlived that record, which is no lost write.
_LAPSE_S = 3600.0


class ReplayLog:
    """Packed calls of the last ``keep_s`` seconds, bounded in bytes.

    A store that is killed or fails over may lose writes that it acknowledged: its
    append-only file is synced once a second, its replicas lag. The call numbers reveal
    it, and the lost calls are sent again. Calls are kept as bytes: keeping thousands of
    objects for seconds would cost the garbage collector more than the calls themselves.
    """

    __slots__ = ("_calls", "_keep_s", "_most_bytes", "_size")

    def __init__(self, keep_s: float = 3.0, most_bytes: int = 4 << 20) -> None:
        self._keep_s = keep_s
        self._most_bytes = most_bytes
        self._size = 0
        # Number, loop time, packed call, store time, indices of refused reserves.
        self._calls: deque[tuple[int, float, bytes, int, tuple[int, ...]]] = deque()

    def add(
        self, seq: int, at_s: float, packed: bytes, at_us: int, refused: tuple[int, ...]
    ) -> None:
        """Append an acknowledged call; drop those beyond the age or size limit."""
        calls = self._calls
        calls.append((seq, at_s, packed, at_us, refused))
        self._size += len(packed)
        while calls[0][1] < at_s - self._keep_s or self._size > self._most_bytes:
            self._size -= len(calls.popleft()[2])
            if not calls:
                break

    def take_after(self, seq: int, now_s: float) -> list[bytes]:
        """Remove the calls numbered above ``seq``; their replay form, oldest first."""
        lost: list[bytes] = []
        while self._calls and self._calls[-1][0] > seq:
            _, at_s, packed, at_us, refused = self._calls.pop()
            self._size -= len(packed)
            if at_s > now_s - _LAPSE_S:
                lost.append(wire.encode_replay(packed, at_us, refused))
        return [call for call in reversed(lost) if call]

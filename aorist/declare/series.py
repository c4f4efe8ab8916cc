"""Windows of several lengths from one declaration.

    motion = Series(Totals, add=Totals.add, codec=Codec.through(MotionTotals, pack_totals, unpack_totals))

    @dataclass(slots=True)
    class Arm:
        windows: Windows[Totals] = field(default_factory=motion.windows)

    @arm_motion.apply
    def moved(arm: Arm, event: JointPositionsChanged) -> None:
        for totals, us in arm.windows.over(before_us, event.sampled_at_us):
            totals.moving_us += us

The fold writes windows of the shortest length alone. When one closes, its totals are added to the window of the next length that it lies
in: so windows add up exactly, and an event costs the same for one length or five. Closed windows become rows of the store of time series,
and stay in the state until they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar, cast

from google.protobuf.message import Message

from aorist.declare.codec import Codec
from aorist.declare.handlers import check_touches_only_its_key, place_here
from aorist.errors import MisdeclaredError
from aorist.ports import LATEST_US
from aorist.v1 import series_pb2

T = TypeVar("T")

SECOND_US = 1_000_000
DAY_S = 86_400
BEFORE_ALL = -1


class Length(NamedTuple):
    """Windows of one length. `keep_s`: how long a closed one can be asked for."""

    window_s: int
    keep_s: int


LENGTHS = (Length(1, 2 * DAY_S), Length(60, 90 * DAY_S), Length(3600, 5 * 365 * DAY_S))

MOST_OPEN = 3600
"""Windows of the shortest length that may be open at once: of them a state is made, and an interval may be cut into as many."""


class Closed(NamedTuple):
    """A window that changes no more, its totals encoded."""

    window_s: int
    start_us: int
    totals: bytes


class Open(NamedTuple):
    """A window to which more may be added, with what is in it now."""

    window_s: int
    start_us: int
    totals: Any


class Series(Generic[T]):
    """Declares the windows that the state of a view keeps.

    totals: what is summed up in a window; a protobuf message, or a dataclass with slots and `codec`; made without arguments for a new one.
    add: adds the second totals to the first, in any order of windows: `def add(into: Totals, more: Totals) -> None`.
    lengths: shortest first, each a multiple of the one before and kept at least as long.
    grace_s: a window closes once the newest time of its key is so far past its end. What reaches a closed window is dropped: neither may an
    interval be longer than this, nor may one source of a key report that much later than another.
    """

    def __init__(
        self,
        totals: type[T],
        *,
        add: Callable[[T, T], None],
        codec: Codec[T] | None = None,
        lengths: Sequence[tuple[int, int]] = LENGTHS,
        grace_s: int = 2,
    ) -> None:
        self.place = f"{place_here()}: series of {totals.__name__}"
        """Where it is declared, for messages."""
        self.totals, self.add = totals, add
        self.lengths = tuple(Length(*length) for length in lengths)
        self.codec: Codec[T] = codec or self._message_codec()
        self._check_lengths(grace_s)
        self._check_totals()
        self.finest_us, self.grace_us = self.lengths[0].window_s * SECOND_US, grace_s * SECOND_US

    def windows(self) -> Windows[T]:
        """Those of a new key: none yet. The default factory of the state's field."""
        return Windows(self)

    def unpack(self, message: series_pb2.Windows) -> Windows[T]:
        """What `Windows.pack` made, for the codec of the state."""
        windows = Windows(self)
        windows.restore(message)
        return windows

    def sum(self, totals: Sequence[T]) -> T:
        """All of them together. They stay as they are."""
        into = self.totals()
        for more in totals:
            self.add(into, more)
        return into

    # --- checking ---

    def _message_codec(self) -> Codec[T]:
        if not issubclass(self.totals, Message):
            raise MisdeclaredError(
                f"{self.place}: its totals are not a protobuf message: give it `codec=Codec(encode, decode)`"
            )
        parse: Any = self.totals.FromString
        return Codec(lambda totals: cast("Message", totals).SerializeToString(deterministic=True), parse)

    def _check_lengths(self, grace_s: int) -> None:
        if not self.lengths or any(window_s < 1 or keep_s < 1 for window_s, keep_s in self.lengths):
            raise MisdeclaredError(f"{self.place}: its lengths are pairs (window_s, keep_s) of whole seconds, from 1")
        for finer, coarser in zip(self.lengths, self.lengths[1:], strict=False):
            if coarser.window_s <= finer.window_s or coarser.window_s % finer.window_s:
                raise MisdeclaredError(
                    f"{self.place}: windows of {coarser.window_s} s are not made of whole ones of {finer.window_s} s: "
                    "let each length be a multiple of the one before"
                )
            if coarser.keep_s < finer.keep_s:
                raise MisdeclaredError(
                    f"{self.place}: windows of {coarser.window_s} s are kept for {coarser.keep_s} s, those of {finer.window_s} s for "
                    f"{finer.keep_s} s: keep longer ones at least as long"
                )
        finest_s = self.lengths[0].window_s
        if grace_s < finest_s or grace_s % finest_s or grace_s // finest_s > MOST_OPEN:
            raise MisdeclaredError(
                f"{self.place}: grace_s is {grace_s}: let it be 1 to {MOST_OPEN} times the shortest length, {finest_s} s"
            )

    def _check_totals(self) -> None:
        name = self.totals.__name__
        try:
            fresh, other = self.totals(), self.totals()
        except TypeError as error:
            raise MisdeclaredError(
                f"{self.place}: {name}() cannot be made without arguments ({error}): give its fields defaults"
            ) from None
        if fresh != other or self.codec.decode(self.codec.encode(fresh)) != fresh:
            raise MisdeclaredError(
                f"{self.place}: decode(encode(...)) of new {name} is not equal to it: correct its codec, or let it compare by value"
            )
        if hasattr(self.add, "__code__"):
            check_touches_only_its_key(self.add)
        self.add(fresh, other)
        if fresh != other:
            raise MisdeclaredError(f"{self.place}: adding new {name} to new {name} changes it: correct `add`")


class Windows(Generic[T]):
    """The windows of one key, in its state. Made by `Series.windows`.

    An interval (before, at] lies in windows that begin at whole multiples of their length since 1970 and include their ends.
    """

    __slots__ = ("_coarse", "_end_us", "_fine", "_newest", "_start_us", "closed", "series")

    def __init__(self, series: Series[T]) -> None:
        self.series = series
        self.closed: list[Closed] = []
        """In the order in which they closed."""
        self._start_us = self._end_us = BEFORE_ALL  # of the newest window of the shortest length
        self._newest: T | None = None  # its totals
        self._fine: dict[int, T] = {}  # by start: those of the shortest length that are open
        self._coarse: list[tuple[int, T] | None] = [None] * (
            len(series.lengths) - 1
        )  # of each longer one, the one open

    # --- folding ---

    def over(self, before_us: int, at_us: int) -> Sequence[tuple[T, int]]:
        """The totals to which the interval (before_us, at_us] belongs, each with how many microseconds of it do.

        What reaches a closed window is left out, and so is what lies before 1970 or beyond 2100.
        """
        if self._start_us <= before_us < at_us <= self._end_us:
            return ((self._newest, at_us - before_us),)  # type: ignore[return-value]  # there is one
        return self._across(before_us, at_us)

    def _across(self, before_us: int, at_us: int) -> Sequence[tuple[T, int]]:
        if not 0 <= before_us < at_us < LATEST_US:
            return ()
        length_us = self.series.finest_us
        start_us = (at_us - 1) // length_us * length_us
        if start_us > self._start_us:
            self._advance(start_us)
        spans: list[tuple[T, int]] = []
        from_us = max(before_us, self._start_us - self.series.grace_us)
        while from_us < at_us:
            edge_us = from_us // length_us * length_us
            upto_us = min(edge_us + length_us, at_us)
            totals = self._fine.get(edge_us)
            if totals is None:
                totals = self._fine[edge_us] = self.series.totals()
            spans.append((totals, upto_us - from_us))
            from_us = upto_us
        return spans

    def _advance(self, start_us: int) -> None:
        """Makes the window that begins there the newest, and closes those whose grace is over. A gap costs nothing, however long."""
        self._start_us, self._end_us = start_us, start_us + self.series.finest_us
        horizon_us = start_us - self.series.grace_us
        for edge_us in sorted(edge_us for edge_us in self._fine if edge_us < horizon_us):
            self._close(0, edge_us, self._fine.pop(edge_us))
        for level, window in enumerate(self._coarse, start=1):
            if window is not None and window[0] + self.series.lengths[level].window_s * SECOND_US <= horizon_us:
                self._coarse[level - 1] = None
                self._close(level, *window)
        self._newest = self._fine[start_us] = self.series.totals()

    def _close(self, level: int, start_us: int, totals: T) -> None:
        """Closes a window, and adds it to the one of the next length. They close in the order of time, so only one of each is open."""
        series = self.series
        self.closed.append(Closed(series.lengths[level].window_s, start_us, series.codec.encode(totals)))
        if level + 1 == len(series.lengths):
            return
        length_us = series.lengths[level + 1].window_s * SECOND_US
        parent_us, window = start_us // length_us * length_us, self._coarse[level]
        if window is not None and window[0] != parent_us:
            self._close(level + 1, *window)
            window = None
        if window is None:
            window = self._coarse[level] = (parent_us, series.totals())
        series.add(window[1], totals)

    # --- the store of time series ---

    def acknowledged(self, windows: Sequence[Closed]) -> None:
        """These are durable: they need not stay in the state."""
        done = set(windows)
        self.closed = [window for window in self.closed if window not in done]

    def open_from(self, window_s: int) -> int:
        """Start of the oldest window of this length that may be open. Those before are closed; there may be none yet."""
        length_us = window_s * SECOND_US
        return max(0, self._start_us - self.series.grace_us) // length_us * length_us

    def open(self) -> list[Open]:
        """All that are open, each with everything in it up to now. Totals of the shortest length are not copies."""
        series = self.series
        now = [Open(series.lengths[0].window_s, start_us, totals) for start_us, totals in sorted(self._fine.items())]
        found, below = list(now), now
        for length, window in zip(series.lengths[1:], self._coarse, strict=True):
            length_us = length.window_s * SECOND_US
            sums: dict[int, T] = {} if window is None else {window[0]: series.sum([window[1]])}
            for finer in below:
                start_us = finer.start_us // length_us * length_us
                series.add(sums.setdefault(start_us, series.totals()), finer.totals)
            below = [Open(length.window_s, start_us, totals) for start_us, totals in sorted(sums.items())]
            found += below
        return found

    # --- the snapshot ---

    def pack(self) -> series_pb2.Windows:
        """For the codec of the state, which puts it into its message."""
        encode, lengths = self.series.codec.encode, self.series.lengths
        message = series_pb2.Windows()
        for start_us, totals in sorted(self._fine.items()):
            message.open.add(window_s=lengths[0].window_s, start_us=start_us, totals=encode(totals))
        for length, window in zip(lengths[1:], self._coarse, strict=True):
            if window is not None:
                message.open.add(window_s=length.window_s, start_us=window[0], totals=encode(window[1]))
        for window_s, start_us, data in self.closed:
            message.closed.add(window_s=window_s, start_us=start_us, totals=data)
        return message

    def restore(self, message: series_pb2.Windows) -> None:
        """What `pack` made. Raises ValueError for a length that is not declared any more: that takes a new build of the view."""
        levels = {length.window_s: level for level, length in enumerate(self.series.lengths)}
        for window in message.open:
            level, totals = levels.get(window.window_s), self.series.codec.decode(window.totals)
            if level is None:
                raise ValueError(
                    f"{self.series.place} declares no windows of {window.window_s} s any more: raise `build`"
                )
            if level == 0:
                self._fine[window.start_us] = totals
            else:
                self._coarse[level - 1] = (window.start_us, totals)
        if self._fine:
            self._start_us = max(self._fine)
            self._end_us, self._newest = self._start_us + self.series.finest_us, self._fine[self._start_us]
        self.closed = [Closed(window.window_s, window.start_us, window.totals) for window in message.closed]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Windows):
            return NotImplemented
        return (self._fine, self._coarse, self.closed) == (other._fine, other._coarse, other.closed)

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"Windows(open={self.open()}, closed={self.closed})"

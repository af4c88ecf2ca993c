"""Room for leased rows, set aside before they are leased, so that they always fit."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from attrs import define, field

Kind = Literal["new", "backlog"]


@define(eq=False)
class Seats:
    """Some seats that are set aside, of one kind; each is taken once."""

    count: int
    kind: Kind

    def take(self) -> Kind:
        """Take one; whoever leases is told how many there are."""
        assert self.count > 0  # noqa: S101 - see above
        self.count -= 1
        return self.kind


@define(eq=False)
class Seating:
    """``capacity`` seats, of which new rows and the backlog may each take three quarters.

    So neither starves the other. ``when_roomy`` is called when there is room again for the backlog
    and somebody had found less than he wanted: rows that found no seat are of the backlog.
    """

    capacity: int
    when_roomy: Callable[[], None] = field(default=lambda: None)
    _taken: Counter[Kind] = field(factory=Counter, init=False)
    _missed: bool = field(default=False, init=False)

    @property
    def room(self) -> int:
        """Return how many more rows may be leased."""
        return self.capacity - self._taken.total()

    @property
    def claim_max(self) -> int:
        """Return how many rows of the backlog to claim; 0 when so few fit that it is worth a wait.

        A claim is worth its statement for a quarter of the seats.
        """
        free = self._free("backlog")
        return free if free >= self.capacity // 4 else 0

    @contextmanager
    def reserve(self, most: int, kind: Kind = "new") -> Iterator[Seats]:
        """Set aside up to ``most`` seats while rows for them are leased; the rest is given back."""
        found = min(most, self._free(kind))
        seats = Seats(found, kind)
        self._taken[kind] += found
        try:
            yield seats
        finally:
            self._taken[kind] -= seats.count
            # Not before the block has ended: what missed a seat is there to be claimed only now.
            self._missed |= found < max(most, 1)
            self._tell_who_missed()

    def leave(self, kind: Kind) -> None:
        """Give back a seat that was taken."""
        self._taken[kind] -= 1
        self._tell_who_missed()

    def _free(self, kind: Kind) -> int:
        share = self.capacity - self.capacity // 4
        return max(0, min(self.room, share - self._taken[kind]))

    def _tell_who_missed(self) -> None:
        if self._missed and self.claim_max:
            self._missed = False
            self.when_roomy()

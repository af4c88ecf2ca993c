"""How a case measures: rounds in which the parties take turns, and figures of their samples."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

from attrs import evolve, field, frozen

from bench.generator import Result
from bench.parties import Daemon, Load, daemon, load, migrated_database
from clawsettle.storage.embedded import EmbeddedServer

CONCURRENCIES = (1, 16, 64)
BUSY = 64


@frozen
class Bench:
    """Where the cases run, how many rounds of how many seconds; ``say`` reports progress."""

    server: EmbeddedServer
    scratch: Path
    rounds: int
    seconds: float
    say: Callable[[str], None]

    @asynccontextmanager
    async def daemon(
        self, name: str, settings: Mapping[str, str] | None = None
    ) -> AsyncIterator[Daemon]:
        """Run a daemon on a fresh database of this name."""
        async with (
            migrated_database(self.server, name) as database,
            daemon(self.server, database, name, self.scratch, settings) as running,
        ):
            yield running

    async def measure(self, label: str, job: Load) -> Result:
        """Run one job and say what came of it."""
        result = await load(job)
        self.say(
            f"  {label:48} c{job.concurrency:<3} {result.rate:7.0f}/s"
            f"  p50 {result.p50_ms:6.2f}  p99 {result.p99_ms:6.2f} ms"
            f"  cpu {' + '.join(f'{cpu_us:.0f}' for cpu_us in result.cpu_us)} us"
            f"  {result.statuses}"
        )
        return result

    async def take_turns(
        self, jobs: Mapping[str, Load], seconds: float | None = None
    ) -> "list[Figure]":
        """Measure jobs one after another, so many rounds of them; each for ``seconds`` if given."""
        seconds = seconds or self.seconds
        samples: dict[str, list[Result]] = {name: [] for name in jobs}
        for _ in range(self.rounds):
            for name, job in jobs.items():
                samples[name].append(await self.measure(name, evolve(job, seconds=seconds)))
        return [Figure(name, jobs[name].concurrency, samples[name]) for name in jobs]


@frozen
class Figure:
    """A party at a concurrency, and what each round measured of it."""

    name: str
    concurrency: int
    samples: Sequence[Result]

    @property
    def rate(self) -> float:
        """Return the median of the rounds' requests/s."""
        return median(sample.rate for sample in self.samples)

    @property
    def p50_ms(self) -> float:
        """Return the median of the rounds' median latencies."""
        return median(sample.p50_ms for sample in self.samples)

    @property
    def p99_ms(self) -> float:
        """Return the median of the rounds' 99th percentiles."""
        return median(sample.p99_ms for sample in self.samples)

    def cpu_us(self, place: int) -> float | None:
        """Return the median CPU time a request of one of the job's processes, in µs."""
        found = [sample.cpu_us[place] for sample in self.samples if len(sample.cpu_us) > place]
        return median(found) if found else None

    def rate_ratio(self, other: "Figure") -> float:
        """Return the median over the rounds of this rate divided by another's."""
        return median(a.rate / b.rate for a, b in zip(self.samples, other.samples, strict=True))

    def cost_ratio(self, other: "Figure") -> float:
        """Return the same for the CPU time a request, of all processes together."""
        pairs = zip(self.samples, other.samples, strict=True)
        return median(sum(a.cpu_us) / sum(b.cpu_us) for a, b in pairs)


@frozen
class Outcome:
    """What a case found: figures for the table, and facts, each a sentence's worth of numbers."""

    figures: Sequence[Figure] = ()
    facts: Mapping[str, object] = field(factory=dict)

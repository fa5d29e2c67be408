"""Discrete-event simulation of dispatch after 429s, with the real `Pace`, permits, bytes, and a token bucket.

    python benchmarks/throttle_simulation.py                   # the table of docs/throttle.md
    python benchmarks/throttle_simulation.py --plot docs/throttle.png
    python benchmarks/throttle_simulation.py --set pace_start=10 --set pace_growth=10

Each cell contains the longest time over the seeds, divided by the ideal time, and the mean of rejected sends (429) per
sample. The ideal time is `(samples - bucket) / rate + response`, the lower bound for every client.
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import itertools
import random
from collections import deque
from typing import Any, Callable, Deque, Dict, List, NamedTuple, Optional, Tuple

from tinkex_sync.config import ThrottleLimits
from tinkex_sync.throttle.pacing import Pace, Ticket

RATES = (5, 20, 50, 200, 500)
BUCKETS = (1, 5, 50, 500)
RESPONSES = (0.001, 0.01, 0.1, 1.0)
CALLERS = {"all at once": 10**9, "64 callers": 64}
ESTIMATE = 5120  # bytes of a 512-token prompt
SEND_COST, RECEIVE_COST = 0.0005, 0.0003  # seconds of a single CPU
WAKE, NETWORK = 0.0002, 0.0003  # means of exponential delays, seconds


class Outcome(NamedTuple):
    seconds: float
    ideal: float
    refused: float  # sends refused per sample
    longest: float  # the longest any sample took from its entry to being accepted
    accepted_at: List[float]
    pace: List[Tuple[float, Optional[float]]]

    @property
    def ratio(self) -> float:
        return self.seconds / self.ideal


class Simulation:
    """One run: `callers` at a time until `samples` are accepted."""

    def __init__(
        self, rate: float, bucket: int, response: float, samples: int, callers: int, seed: int, limits: ThrottleLimits
    ) -> None:
        self.rate, self.bucket, self.response, self.samples = rate, bucket, response, samples
        self.callers, self.limits = callers, limits
        self.rng = random.Random(seed)
        self.pace = Pace(limits)
        self.events: List[Tuple[float, int, Callable[..., None], Tuple[Any, ...]]] = []
        self.order = itertools.count()
        self.now = 0.0
        self.slots, self.few, self.bytes = (
            limits.max_dispatches,
            limits.max_dispatches_after_backoff,
            limits.dispatch_bytes,
        )
        self.for_slot: Deque[int] = deque()
        self.for_few: Deque[int] = deque()
        self.for_bytes: Deque[int] = deque()
        self.throttled: Dict[int, bool] = {}
        self.turns: List[int] = []
        self.timer = float("inf")
        self.cpu_free = 0.0
        self.tokens, self.filled_at = float(bucket), 0.0
        self.entered: Dict[int, float] = {}
        self.accepted_at: List[float] = []
        self.longest = 0.0
        self.refusals = 0
        self.track: List[Tuple[float, Optional[float]]] = []

    def at(self, when: float, action: Callable[..., None], *args: Any) -> None:
        heapq.heappush(self.events, (when, next(self.order), action, args))

    def run(self) -> Outcome:
        for _ in range(min(self.callers, self.samples)):
            self.enter()
        while self.events:
            self.now, _, action, args = heapq.heappop(self.events)
            action(*args)
        if len(self.accepted_at) != self.samples:
            raise RuntimeError(f"{self.samples - len(self.accepted_at)} samples were never accepted")
        ideal = max(0.0, (self.samples - self.bucket) / self.rate) + self.response
        return Outcome(
            self.accepted_at[-1], ideal, self.refusals / self.samples, self.longest, self.accepted_at, self.track
        )

    def enter(self) -> None:
        sample = len(self.entered)
        self.entered[sample] = self.now
        self.for_slot.append(sample)
        self.admit()

    def admit(self) -> None:
        """The three layers, each in order of arrival."""
        limits = self.limits
        while self.for_slot and self.slots > 0:
            sample = self.for_slot.popleft()
            self.slots -= 1
            self.throttled[sample] = self.pace.is_recent(self.now)
            (self.for_few if self.throttled[sample] else self.for_bytes).append(sample)
        while self.for_few and self.few > 0:
            self.few -= 1
            self.for_bytes.append(self.for_few.popleft())
        while self.for_bytes and self.bytes >= 0:
            sample = self.for_bytes.popleft()
            self.bytes -= ESTIMATE * (limits.bytes_factor_after_backoff if self.throttled[sample] else 1)
            heapq.heappush(self.turns, sample)
        self.send()

    def send(self) -> None:
        while self.turns:
            opens = max(self.pace.opens_at(self.now), self.cpu_free)
            if opens > self.now:
                if opens < self.timer:
                    self.timer = opens
                    self.at(opens + self.rng.expovariate(1 / WAKE), self.ring)
                return
            sample = heapq.heappop(self.turns)
            ticket = self.pace.leave(self.now)
            self.cpu_free = self.now + SEND_COST
            half = self.response * self.rng.uniform(0.45, 0.55)
            travel = SEND_COST + half + self.rng.expovariate(1 / NETWORK)
            self.at(self.now + travel, self.serve, sample, ticket, half)

    def ring(self) -> None:
        self.timer = float("inf")
        self.send()

    def serve(self, sample: int, ticket: Ticket, half: float) -> None:
        self.tokens = min(self.bucket, self.tokens + (self.now - self.filled_at) * self.rate)
        self.filled_at = self.now
        admitted = self.tokens >= 1
        self.tokens -= admitted
        self.at(self.now + half, self.accepted if admitted else self.refused, sample, ticket)

    def record_acceptance(self, sample: int, ticket: Ticket) -> None:
        self.cpu_free = max(self.now, self.cpu_free) + RECEIVE_COST
        self.pace.record_acceptance(self.now, ticket)
        self.track.append((self.now, self.pace.rate))
        self.accepted_at.append(self.now)
        self.longest = max(self.longest, self.now - self.entered[sample])
        self.slots += 1
        self.few += self.throttled[sample]
        self.bytes += ESTIMATE * (self.limits.bytes_factor_after_backoff if self.throttled[sample] else 1)
        if len(self.entered) < self.samples:
            self.enter()
        else:
            self.admit()

    def record_rate_limit(self, sample: int, ticket: Ticket) -> None:
        self.cpu_free = max(self.now, self.cpu_free) + RECEIVE_COST
        self.pace.record_rate_limit(self.now, ticket, self.limits.small_backoff)
        self.track.append((self.now, self.pace.rate))
        self.refusals += 1
        # The slots stay taken during its own delay, as in the throttle.
        self.at(self.now + self.limits.small_backoff, self.again, sample)
        self.send()

    def again(self, sample: int) -> None:
        heapq.heappush(self.turns, sample)
        self.send()


def simulate(
    rate: float,
    bucket: int,
    response: float,
    samples: int,
    callers: int = 10**9,
    seed: int = 0,
    limits: Optional[ThrottleLimits] = None,
) -> Outcome:
    return Simulation(rate, bucket, response, samples, callers, seed, limits or ThrottleLimits()).run()


def samples_for(rate: int, bucket: int) -> int:
    """Ten seconds of the rate (20 for 5/s; at most 3000) on top of the bucket, or as many as the caller gives."""
    named = {(50, 50): 500, (50, 5): 200}
    return named.get((rate, bucket), bucket + min(max(10 * rate, 100), 3000))


def cell(rate: int, bucket: int, response: float, callers: int, seeds: int, limits: ThrottleLimits) -> str:
    runs = [simulate(rate, bucket, response, samples_for(rate, bucket), callers, seed, limits) for seed in range(seeds)]
    return f"{max(run.ratio for run in runs):.2f} / {sum(run.refused for run in runs) / seeds:.2f}"


def table(seeds: int, limits: ThrottleLimits) -> None:
    for name, callers in CALLERS.items():
        print(f"\n{name}\n")
        print("| rate/s | bucket | samples | " + " | ".join(f"{1000 * r:g} ms" for r in RESPONSES) + " |")
        print("| ---: | ---: | ---: | " + " | ".join("---:" for _ in RESPONSES) + " |")
        for rate, bucket in itertools.product(RATES, BUCKETS):
            cells = (cell(rate, bucket, response, callers, seeds, limits) for response in RESPONSES)
            print(f"| {rate} | {bucket} | {samples_for(rate, bucket)} | " + " | ".join(cells) + " |", flush=True)


def plot(path: str, limits: ThrottleLimits) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    cases = [(50, 50, 500), (50, 5, 200), (5, 5, 105), (500, 500, 3500)]
    figure, axes = plt.subplots(2, len(cases), figsize=(15, 6.5), constrained_layout=True)
    for column, (rate, bucket, samples) in enumerate(cases):
        upper, lower = axes[0][column], axes[1][column]
        for response in RESPONSES:
            run = simulate(rate, bucket, response, samples, limits=limits)
            label = f"{1000 * response:g} ms: {run.ratio:.2f} x, {run.refused:.2f} refused"
            upper.step(run.accepted_at, range(1, samples + 1), where="post", label=label)
            times = [when for when, pace in run.pace if pace is not None]
            lower.plot(times, [pace for _, pace in run.pace if pace is not None], label=label)
        seconds = max(0.0, (samples - bucket) / rate)
        upper.plot([0, seconds], [min(bucket, samples), samples], "k--", lw=0.8, label="ideal")
        upper.set_title(f"{rate}/s, bucket {bucket}, {samples} samples")
        upper.legend(fontsize=7)
        lower.axhline(rate, color="k", ls="--", lw=0.8)
        lower.set_yscale("log")
        lower.set_xlabel("seconds")
    axes[0][0].set_ylabel("accepted")
    axes[1][0].set_ylabel("pace, sends per second")
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--plot", metavar="FILE.png", help="draw instead of printing the table")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="a field of ThrottleLimits")
    args = parser.parse_args()
    changes = {}
    for item in args.set:
        name, _, value = item.partition("=")
        changes[name] = type(getattr(ThrottleLimits(), name))(value)
    limits = dataclasses.replace(ThrottleLimits(), **changes)
    if args.plot:
        plot(args.plot, limits)
    else:
        table(args.seeds, limits)


if __name__ == "__main__":
    main()

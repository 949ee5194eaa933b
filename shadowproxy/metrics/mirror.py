"""Of one proxy process: whether and how it mirrors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, StateSetMetricFamily

from shadowproxy.metrics.exposition import Registry, Scraped
from shadowproxy.model import Side


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowReading:
    """What is exported of the copies to one shadow side."""

    breaker: str
    transitions: Mapping[str, int]
    held: int
    shed: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorReading:
    """What is exported of mirroring as a whole."""

    paused: bool
    sample: float
    sides: Mapping[Side, ShadowReading]


class MirrorMetrics:
    """Of one proxy process: whether and how it mirrors. `current` is asked at the moment of a scrape."""

    _STATES = ("closed", "open", "half_open")

    def __init__(self, into: Registry, current: Callable[[], MirrorReading]) -> None:
        self._current = current
        into.register(Scraped(self._families))

    def _families(self) -> Iterable[Metric]:
        reading = self._current()
        yield GaugeMetricFamily(
            "shadowproxy_mirroring_paused",
            "1 while all mirroring is paused, or the experiment stopped, by a person; else 0.",
            value=reading.paused,
        )
        yield GaugeMetricFamily(
            "shadowproxy_mirroring_sample_ratio",
            "Share of requests that is mirrored where no route says otherwise; 0 while paused.",
            value=reading.sample,
        )
        state = StateSetMetricFamily("shadowproxy_breaker_state", "The breaker of a shadow upstream.", labels=["side"])
        turned = CounterMetricFamily(
            "shadowproxy_breaker_transitions", "Times that a breaker came into a state.", labels=["side", "state"]
        )
        held = GaugeMetricFamily(
            "shadowproxy_in_flight_bytes",
            "Memory of copies under way and of answers that wait for them.",
            labels=["side"],
        )
        shed = CounterMetricFamily(
            "shadowproxy_shed_copies",
            "Copies that were not made, and are recorded as that side's failure, by reason.",
            labels=["side", "reason"],
        )
        for side, one in reading.sides.items():
            state.add_metric([side.value], {name: name == one.breaker for name in self._STATES})
            held.add_metric([side.value], one.held)
            for name, count in one.transitions.items():
                turned.add_metric([side.value, name], count)
            for reason, count in one.shed.items():
                shed.add_metric([side.value, reason], count)
        yield from (state, turned, held, shed)

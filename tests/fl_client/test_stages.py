from __future__ import annotations

import pytest
import torch

from fl_client.stages import Clock, Stages, limit_line

SECONDS = {"decoding": 8.0, "transfer": 0.1, "network": 2.0, "histogram": 0.0}


def stages_of(device: str, workers: int = 4, cores: int = 4, **seconds: float) -> Stages:
    given = {**SECONDS, **seconds}
    return Stages.of(given, 1000, 2.5, workers=workers, cores=cores, device=device)  # type: ignore[arg-type]


def test_rates_and_shares() -> None:
    gpu = stages_of("cuda")
    assert gpu.rates == {"decoding": 500, "transfer": 10_000, "network": 500}
    assert gpu.shares == {"decoding": 0.8, "transfer": 0.04, "network": 0.8}
    # on a CPU the workers run the network too
    assert stages_of("cpu").rates == {"decoding": 500, "transfer": 10_000, "network": 2000}
    assert stages_of("cpu").shares["network"] == 0.2


@pytest.mark.parametrize(
    ("stages", "line"),
    [
        (
            stages_of("cuda", workers=2, cores=8),
            "decoding was the limit (250 images/s; the network could do 500): "
            "give more --workers, up to 8",
        ),
        (
            stages_of("cuda", decoding=16.0),
            "decoding was the limit (250 images/s; the network could do 500): "
            "use more cores, or store smaller images",
        ),
        (
            stages_of("cpu", network=40.0),
            "the network was the limit (100 images/s; decoding could do 500): "
            "a GPU would help, or a spec with a smaller backbone",
        ),
        (
            stages_of("cuda", network=10.0),
            "the network was the limit (100 images/s; decoding could do 500): "
            "a larger --batch-size may help, or a spec with a smaller backbone",
        ),
        (
            stages_of("cuda", transfer=10.0),
            "transfer was the limit (100 images/s; decoding could do 500): "
            "give a larger --batch-size",
        ),
        (
            Stages({"network": 7.0}, {"network": 1.0}, 1, 1, "cpu"),
            "the network was the limit (7 images/s): "
            "a GPU would help, or a spec with a smaller backbone",
        ),
        (Stages({}, {}, 1, 1, "cpu"), ""),
    ],
)
def test_the_limit_is_named(stages: Stages, line: str) -> None:
    assert limit_line(stages) == line


def test_a_clock_adds_up() -> None:
    clock = Clock(torch.device("cpu"))
    assert clock.seconds() == {}
    for _ in range(2):
        with clock.time("network"):
            pass
    first = clock.seconds()["network"]
    with clock.time("network"), clock.time("decoding"):
        pass
    assert clock.seconds()["network"] > first > 0


class Event:
    """A moment on a made-up device, at which everything so far has happened after `late`."""

    now, late = 0.0, 10.0

    def __init__(self, enable_timing: bool) -> None:
        self.at = 0.0

    def query(self) -> bool:
        return Event.now >= self.at + Event.late

    def elapsed_time(self, other: Event) -> float:
        return other.at - self.at


class Stream:
    def record_event(self, event: Event) -> Event:
        Event.now += 1
        event.at = Event.now
        return event


def synchronise(_: object) -> None:
    Event.now += Event.late


def test_events_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: Stream())
    monkeypatch.setattr(torch.cuda, "synchronize", synchronise)
    clock = Clock(torch.device("cuda"))
    for _ in range(500):
        for stage in ("transfer", "network"):
            with clock.time(stage):  # type: ignore[arg-type]
                pass
        assert len(clock._events) <= Event.late
    assert clock.seconds() == pytest.approx({"transfer": 0.5, "network": 0.5})
    assert not clock._events

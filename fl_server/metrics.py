"""A coordinator's status in Prometheus' text format, for node-exporter's textfile collector."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from fl_server.status import FORMER, ONLINE, RunStatus, Status

Samples = Iterable[tuple[Mapping[str, str], float]]  # labels, value


def prometheus_text(status: Status) -> str:
    """Return a status as gauges; points in time are seconds since 1970, as Prometheus wants them.

    What is not known has no sample.
    """
    lines = [*_server(status), *_sites(status), *_runs(status)]
    return "\n".join(lines) + "\n"


def _server(status: Status) -> Iterator[str]:
    yield from _gauge(
        "status_time_seconds",
        "When these figures were taken.",
        [({}, status.time.timestamp())],
    )
    yield from _gauge(
        "superlink_up",
        "Whether the SuperLink answers.",
        [({}, float(not status.superlink))],
    )
    yield from _gauge(
        "certificate_expiry_time_seconds",
        "When a TLS certificate runs out.",
        [({"use": use}, end.timestamp()) for use, end in status.certificates.items() if end],
    )


def _sites(status: Status) -> Iterator[str]:
    active = [site for site in status.sites if site.key in ("active", "expired")]
    yield from _gauge(
        "site_key_expiry_time_seconds",
        "When the key of an enrolled site runs out.",
        [({"site": site.site}, site.key_expires.timestamp()) for site in active],
    )
    yield from _gauge(
        "site_connected",
        "Whether the SuperNode of an enrolled site is connected.",
        [
            ({"site": site.site}, float(site.node in (ONLINE, FORMER)))
            for site in active
            if site.node != "unknown"
        ],
    )


def _runs(status: Status) -> Iterator[str]:
    runs: list[RunStatus] = status.runs
    running = [run for run in runs if run.state == "running"]
    yield from _gauge(
        "run_state",
        "1 for the state that a run is in.",
        [({"run": run.run, "state": run.state}, 1.0) for run in runs],
    )
    yield from _gauge(
        "run_lost_sites",
        "Sites that do not take part in a run any more.",
        [({"run": run.run}, float(len(run.lost))) for run in runs],
    )
    yield from _gauge(
        "run_phase_seconds",
        "For how long a running run has been in its phase.",
        [
            ({"run": run.run, "phase": run.phase}, (status.time - run.since).total_seconds())
            for run in running
        ],
    )
    yield from _gauge(
        "run_deadline_time_seconds",
        "When a running run stops waiting for sites.",
        [({"run": run.run}, run.deadline.timestamp()) for run in running if run.deadline],
    )
    yield from _gauge(
        "run_waiting_seconds",
        "For how long a running run has awaited a site.",
        [
            ({"run": run.run, "site": site}, seconds)
            for run in running
            for site, seconds in run.waiting.items()
        ],
    )


def _gauge(name: str, meaning: str, samples: Samples) -> Iterator[str]:
    lines = [f"fedprint_{name}{_labels(labels)} {value:.16g}" for labels, value in samples]
    if lines:
        yield f"# HELP fedprint_{name} {meaning}"
        yield f"# TYPE fedprint_{name} gauge"
        yield from lines


def _labels(labels: Mapping[str, str]) -> str:
    pairs = ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items())
    return f"{{{pairs}}}" if pairs else ""


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

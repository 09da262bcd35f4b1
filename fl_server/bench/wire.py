"""Cost and size of a fingerprint on its way from a site to the coordinator's disk."""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import numpy as np
from flwr.app import Message, MessageType
from flwr.common.serde import message_to_proto

from fl_server.bench.wire_case import PLAIN, PRIVATE, RUN, Case
from fl_server.bench.wire_intake import Intake, intake, intake_alone
from fl_server.bench.wire_sites import MadeGrid
from protocol.benchmark import Findings, Options, Ratio, ratio, seconds
from protocol.fingerprint import counts_from_bytes, counts_to_bytes, pack
from protocol.records import from_reply, release_request, to_reply
from protocol.statement import new_nonce

MEMORY = Path("/dev/shm")
"""Where a file is written at the cost of the writing, not of a disk."""

SIZES = (1000, 3000, 10_000), (20, 40)
"""Fingerprints that are taken in, in full and in small."""


def measure(options: Options) -> Findings:
    """Time each step, take in many sites, and count the bytes on the wire."""
    ratios: dict[str, Ratio] = {}
    figures: dict[str, float] = {}
    notes: list[str] = []
    for label, name in (("", PLAIN), ("_private", PRIVATE)):
        case = Case(name, options.pick(64, 4))
        with _fast_folder(options, notes) as fast:
            folders = (fast / str(number) for number in count())
            ratios |= {f"{k}{label}": r for k, r in _of_limits(case, folders, options).items()}
            ratios[f"over_raw_float32{label}"] = _over_raw(case)
            found = _steps(case, folders, options) | _sizes(case)
        figures |= {f"{name}_{key}": value for key, value in found.items()}
        if options.size == "full" or name == PLAIN:
            figures |= _intakes(case, options)
    notes.append(
        "A release has two signatures, so that verifying takes twice one verification whatever "
        "the rest costs; stored are three files a site. Waiting for the disk is left out of the "
        "ratios: see store_durable and write_durable, the plainest way to write the same files."
    )
    notes.append(
        f"Under {PRIVATE} raw float32 counts are fewer bytes than a signature with its key: what "
        "is sent is the statement."
    )
    return Findings(ratios, figures, list(dict.fromkeys(notes)))


@contextmanager
def _fast_folder(options: Options, notes: list[str]) -> Iterator[Path]:
    """Yield a folder in memory, where the machine has such."""
    there = MEMORY.is_dir() and os.access(MEMORY, os.W_OK)
    if not there:
        notes.append(f"{MEMORY} is not there: storing waited for a disk.")
    where = MEMORY if there else options.scratch
    with tempfile.TemporaryDirectory(prefix="fedprint-bench-", dir=where) as folder:
        yield Path(folder)


def _of_limits(case: Case, folders: Iterator[Path], options: Options) -> dict[str, Ratio]:
    def ours() -> None:
        case.verify_and_store(next(folders))

    return {
        "of_hash_and_verify": ratio(
            ours,
            case.hash_and_verify,
            options.turns,
            "SHA-256 and one Ed25519 verification of the same bytes / verify and store",
        ),
        "of_hash_and_one_statement": ratio(
            ours,
            case.hash_and_verify_statement,
            options.turns,
            "the same, the signature over the release envelope alone / verify and store",
        ),
    }


def _over_raw(case: Case) -> Ratio:
    raw, sent = case.counts.size * 4, _wire_bytes(case)
    return Ratio.over([raw / sent], f"bytes of raw float32 / of the message, {case.spec.name}")


def _wire_bytes(case: Case) -> int:
    """Return the bytes of Flower's whole message: metadata, counts, statement, signatures."""
    grid = MadeGrid(1, case.spec, case.private)
    request = release_request(RUN, new_nonce(), case.spec)
    asked = Message(request, dst_node_id=1, message_type=f"{MessageType.QUERY}.fingerprint")
    (reply,) = grid.pull_messages(grid.push_messages([asked]))
    return int(message_to_proto(reply).ByteSize())


def _sizes(case: Case) -> dict[str, float]:
    first = case.sent[0]
    return {
        "raw_float32_bytes": case.counts.size * 4,
        "file_bytes": len(first.payload),
        "compressed_bytes": len(pack(first.payload)),
        "envelopes_bytes": len(first.release) + len(first.binding),
        "message_bytes": _wire_bytes(case),
    }


def _steps(case: Case, folders: Iterator[Path], options: Options) -> dict[str, float]:
    """Return microseconds a fingerprint."""
    site, first, verified = case.sites[0], case.sent[0], case.verify()
    shape = (case.spec.width, case.spec.bins)
    answer = to_reply(first.site, first.payload, first.release, first.binding)
    disk = (options.scratch / f"{case.spec.name}-{number}" for number in count())
    repeats, many = options.pick(50, 3), len(case.sent)

    def signed() -> None:
        site.binding(site.release(), RUN, first.nonce)

    return {
        "encode_us": _median(lambda: pack(counts_to_bytes(case.counts)), repeats),
        "sign_us": _median(signed, repeats),
        "unpack_us": _median(lambda: from_reply(answer), repeats),
        "decode_us": _median(lambda: counts_from_bytes(first.payload, shape), repeats),
        "verify_us": _median(case.verify, options.turns) / many,
        "store_us": _median(lambda: case.store(next(folders), verified), options.turns) / many,
        "store_durable_us": _median(lambda: case.store(next(disk), verified), options.turns) / many,
        "write_us": _median(lambda: case.write(next(folders), False), options.turns) / many,
        "write_durable_us": _median(lambda: case.write(next(disk), True), 1) / many,
        "hash_and_verify_us": _median(case.hash_and_verify, options.turns) / many,
    }


def _intakes(case: Case, options: Options) -> dict[str, float]:
    """Return what taking in ever more sites costs."""
    sizes = SIZES[options.pick(0, 1)]
    name, private = case.spec.name, case.private
    take_in = intake_alone if options.size == "full" else intake
    found: dict[int, Intake] = {}
    for size in sizes:
        with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
            found[size] = take_in(size, name, private, Path(folder))
    figures: dict[str, float] = {}
    for size, took in found.items():
        figures[f"{name}_intake_{size}_seconds"] = took.seconds
        figures[f"{name}_intake_{size}_exchange_seconds"] = took.exchange
        figures[f"{name}_intake_{size}_proofs_seconds"] = took.proofs
        figures[f"{name}_intake_{size}_folder_seconds"] = took.folder
        figures[f"{name}_intake_{size}_memory_mib"] = took.memory / 2**20
    figures[f"{name}_intake_seconds_slope"] = _slope(
        sizes, [took.seconds for took in found.values()]
    )
    return figures


def _slope(sizes: tuple[int, ...], values: list[float]) -> float:
    """Return the exponent of growth: 1 is linear, 2 quadratic."""
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(values, 1e-9)), 1)[0])


def _median(call: Callable[[], object], repeats: int) -> float:
    """Return microseconds."""
    call()
    return statistics.median(seconds(call) for _ in range(repeats)) * 1e6

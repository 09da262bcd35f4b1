"""What privacy costs: time of a private release against a plain one, and bytes on the wire.

Usage: python benchmarks/private_cost.py SITE_FOLDER [--repeats 10] [--epsilon 2] [--json FILE]

Both make the whole release of the same folder as ``fedprint fingerprint`` does (read, extract,
count, sign; the private one also draws noise, writes the ledger and keeps what it drew), in turns
in one process, each time with a state folder of its own. The ratio is the geometric mean over the
turns, with Student's 95 % interval, of the time that passed and of the processor time, which a busy
machine does not disturb; the first turn warms up and does not count. Both count the same
number of images: where there are patients, the cap is far above what any of them has (``--cap``).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student

from fl_client.local_release import Released, release_plain, release_private
from fl_client.policy import local_policy
from fl_client.site import read_site
from protocol import statement
from protocol.envelope import sign
from protocol.fingerprint import pack
from protocol.keys import generate_key, signer
from protocol.spec import Spec, load_spec


def run(folder: Path, spec: Spec, private: bool, state: Path, **limits: Any) -> Released:
    """Make one release from the folder's images."""
    site = read_site(folder, state)
    release: Callable[..., Released] = release_private if private else release_plain
    policy = local_policy(**({"release": "private", **limits} if private else {}))
    options = {"batch_size": 32, "workers": None, "progress": False}
    return release(site, spec, policy, signer(generate_key()), "cpu", options)


def compared(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Return the geometric mean of private over plain, turn by turn, and its 95 % t interval."""
    logs = np.log(np.asarray(seconds["private"]) / np.asarray(seconds["plain"]))  # [turns]
    half = student.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / np.sqrt(len(logs))
    ends = {"mean": logs.mean(), "low": logs.mean() - half, "high": logs.mean() + half}
    return {name: round(float(np.exp(value)), 4) for name, value in ends.items()}


def on_the_wire(released: Released, spec: Spec) -> dict[str, int]:
    """Return the bytes that a site sends, and those of the spec that it was asked with."""
    now = statement.utc_now()
    bound = statement.Binding(
        site=released.terms.site, run="run", nonce=statement.new_nonce(), issued=now, expires=now
    )
    session = sign(statement.binding_statement(released.envelope, bound), signer(generate_key()))
    sizes = {
        "payload": len(released.payload),
        "packed": len(pack(released.payload)),
        "release_envelope": len(released.envelope),
        "binding_envelope": len(session),
    }
    sent = sizes["packed"] + sizes["release_envelope"] + sizes["binding_envelope"]
    return {**sizes, "sent": sent, "spec": len(spec.model_dump_json().encode())}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--plain", default="lite0-100", help="spec of the plain release")
    parser.add_argument("--private", default="lite0-private", help="spec of the private release")
    parser.add_argument("--epsilon", type=float, default=2.0)
    parser.add_argument("--cap", type=int, default=10_000, help="most images of one patient")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=0, help="of torch; default: all")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    limits = {"epsilon": options.epsilon, "contribution_cap": options.cap}
    specs = {"plain": load_spec(options.plain), "private": load_spec(options.private)}
    seconds: dict[str, list[float]] = {name: [] for name in specs}
    worked: dict[str, list[float]] = {name: [] for name in specs}
    released: dict[str, Released] = {}
    for turn in range(options.repeats + 1):
        for name in sorted(specs, reverse=bool(turn % 2)):  # neither is always first
            with tempfile.TemporaryDirectory() as state:
                start, busy = time.perf_counter(), time.process_time()
                released[name] = run(
                    options.folder, specs[name], name == "private", Path(state), **limits
                )
                if turn:
                    seconds[name].append(time.perf_counter() - start)
                    worked[name].append(time.process_time() - busy)
    ratios = {"time": compared(seconds), "processor_time": compared(worked)}
    result = {
        "images": {name: made.terms.images for name, made in released.items()},
        "seconds": {name: float(np.median(values)) for name, values in seconds.items()},
        "ratios": ratios,
        "bytes": {name: on_the_wire(made, specs[name]) for name, made in released.items()},
    }
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

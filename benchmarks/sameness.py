"""How many counts of a fingerprint move with workers, file order, threads and batch size.

Usage: python benchmarks/sameness.py SITE_FOLDER [--spec lite0-100]

A count moves when rounding puts a feature value on the other side of a bin's edge. The last column
is what that does to the bKLD of the fingerprint against the reference.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from fl_client.extract import BATCH_SIZE, extract
from fl_client.site import read_site
from protocol.fingerprint import Fingerprint
from protocol.spec import load_spec
from strategies.measures import get, released


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--spec", default="lite0-100")
    options = parser.parse_args()
    spec, images = load_spec(options.spec), read_site(options.folder).images
    measure = get("bkld-large-unweighted")

    def fingerprint(reverse: bool = False, threads: int = 2, **how: int) -> Fingerprint:
        torch.set_num_threads(threads)
        counts = extract(images[::-1] if reverse else images, spec, device="cpu", **how).counts
        assert counts is not None
        return Fingerprint("site", counts, spec.digest, len(images))

    reference = fingerprint(workers=1)
    own = measure.matrix(*[released([reference], spec)] * 2)[0, 0]
    print(f"{len(images)} images, {len(images) * spec.features:,} counts, batch {BATCH_SIZE}")
    tried = {
        "again": fingerprint(workers=1),
        "4 workers, order reversed": fingerprint(workers=4, reverse=True),
        "1 thread": fingerprint(workers=1, threads=1),
        **{f"batch {size}": fingerprint(workers=1, batch_size=size) for size in (7, 16, 64)},
    }
    for name, other in tried.items():
        moved = int(np.abs(other.counts - reference.counts).sum()) // 2
        change = abs(
            measure.matrix(released([other], spec), released([reference], spec))[0, 0] - own
        )
        print(f"{name:26s} {moved:4d} moved, bKLD changes by {change:.1e}")


if __name__ == "__main__":
    main()

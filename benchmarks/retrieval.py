"""Speed and memory of an exact query of the fingerprint store, against a bare product.

    python benchmarks/retrieval.py [--tasks 20000] [--folder DIR] [--threads 1] [--json FILE]

All times are of one run and take turns. `ratio` is the time of a whole query (contenders, exact
distances, ranks) divided by that of numpy's float32 matrix-vector product over the very same
memory-mapped bytes; `faiss` is its IndexFlatIP with as many threads, all of it in memory.
`peak_mb_block_by_block` is what a query adds to the resident memory of the process if nothing may
stay mapped (otherwise the system's file cache counts as well). The matrix has 209 kB a task; a
folder that holds one already is used again.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from fl_server.pool_search import BlockIndex, make_index, top_k
from fl_server.pool_store import FingerprintStore
from fl_server.pool_writing import append, create
from protocol.files import sha256_hex
from protocol.fingerprint import Fingerprint
from protocol.spec import Preprocess, Spec, Weights, edges_digest
from strategies.retrieval import distances, question

FAMILIES, IMAGES = 200, 500


def make_spec(features: int, bins: int) -> Spec:
    """Return a spec of made-up features between 0 and 1."""
    lower, upper = np.zeros(features), np.ones(features)
    return Spec(
        name=f"synthetic-{features}-{bins}",
        backbone="none",
        weights=Weights(source="none", sha256="0" * 64),
        preprocess=Preprocess(resize=32, crop=32, mean=[0.5] * 3, std=[0.5] * 3),
        features=features,
        bins=bins,
        lower=lower.tolist(),
        upper=upper.tolist(),
        edges_sha256=edges_digest(lower, upper),
    )


def make_tasks(number: int, spec: Spec, seed: int = 0) -> Iterator[tuple[str, Fingerprint]]:
    """Yield made-up tasks: each takes its features from two of many families of 500 images."""
    rng = np.random.default_rng(seed)
    m, b = spec.width, spec.bins
    families = np.empty((FAMILIES, m, b), dtype=np.int16)
    for family in families:
        centre, width = rng.uniform(0, b, m), rng.uniform(2, b / 3, m)
        bins = np.clip(rng.normal(centre, width, (IMAGES, m)), 0, b - 1).astype(np.intp)  # [n, m]
        flat = np.bincount((bins + np.arange(m) * b).ravel(), minlength=m * b)
        family[:] = flat.reshape(m, b)
    for task in range(number):
        pair, mixture = rng.integers(0, FAMILIES, 2), rng.random()
        chosen = np.where(rng.random(m) < mixture, pair[0], pair[1])  # [m]
        counts = families[chosen, np.arange(m)]
        name = sha256_hex(f"{seed} {task}".encode())
        yield name, Fingerprint(name[:12], counts, spec.digest, IMAGES)


def seconds(call: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def peak_megabytes(call: Callable[[], object]) -> float:
    """Return by how much a call raises the process's peak of resident memory, mapped files too."""
    status = Path("/proc/self/status")
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far (Linux)

    def read(key: str) -> float:
        if not status.exists():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        line = next(x for x in status.read_text().splitlines() if x.startswith(key))
        return float(line.split()[1]) / 1024

    before = read("VmRSS")
    call()
    return read("VmHWM") - before


def is_exact(store: FingerprintStore, target: Fingerprint, measure: str, k: int) -> bool:
    """Return whether the answer is that of exact distances to every single task."""
    asked = question(target, store.spec, measure)
    parts = [distances(block[i : i + 20], asked)
             for _, block in store.blocks() for i in range(0, len(block), 20)]  # fmt: skip
    exact = np.concatenate(parts)
    order = np.lexsort((np.array(store.entries.ids), exact))[:k]
    return top_k(store, target, k, measure).ids == [store.entries.ids[i] for i in order]


def measure_queries(
    store: FingerprintStore, measure: str, k: int, repeats: int, threads: int, with_faiss: bool
) -> dict[str, object]:
    """Time queries and bare products in turns, each time with another target."""
    targets = [f for _, f in make_tasks(repeats + 1, store.spec, seed=1)]
    vector = np.random.default_rng(2).random(store.layout.width, dtype=np.float32)
    frugal = FingerprintStore(store.folder, mapped=0)
    peak = peak_megabytes(lambda: top_k(frugal, targets[0], k, measure))
    index: BlockIndex = BlockIndex(store)
    alive = np.ones(store.size, dtype=bool)
    few = len(index.contenders([question(targets[0], store.spec, measure)], k, alive)[0])
    matrix: NDArray[np.float32] = np.memmap(
        store.folder / store.header.matrix, np.float32, "r", shape=(store.size, store.layout.width)
    )
    flat = None
    if with_faiss:
        import faiss

        faiss.omp_set_num_threads(threads)
        flat = make_index(store, "faiss")
        top_k(store, targets[0], k, measure, index=flat)  # fills it
    times: dict[str, list[float]] = {"query": [], "product": [], "faiss": []}
    for target in targets[1:]:
        times["product"].append(seconds(lambda: matrix @ vector))
        times["query"].append(
            seconds(lambda t=target: top_k(store, t, k, measure, index=index))  # type: ignore[misc]
        )
        if flat is not None:
            times["faiss"].append(
                seconds(lambda t=target: top_k(store, t, k, measure, index=flat))  # type: ignore[misc]
            )
    middle = {name: float(np.median(values)) for name, values in times.items() if values}
    return {
        "contenders": few,
        "peak_mb_block_by_block": peak,
        "seconds": middle,
        "seconds_block_by_block": seconds(lambda: top_k(frugal, targets[0], k, measure)),
        "ratio": middle["query"] / middle["product"],
        "ratio_faiss": middle["faiss"] / middle["product"] if flat is not None else None,
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--bins", type=int, default=100)
    parser.add_argument("--measure", default="bkld-small-target")
    parser.add_argument("--top", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of BLAS and faiss")
    parser.add_argument("--folder", type=Path, default=None, help="keep the store here")
    parser.add_argument("--faiss", action="store_true", help="compare (holds all in memory)")
    parser.add_argument("--check", action="store_true", help="compare with all exact distances")
    parser.add_argument("--json", type=Path, default=None, help="write the figures here")
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as temporary,
        threadpool_limits(limits=args.threads, user_api="blas"),
    ):
        spec = make_spec(args.features, args.bins)
        store = create(args.folder or Path(temporary), spec, args.measure)
        new = make_tasks(args.tasks, spec) if store.size < args.tasks else iter(())
        result: dict[str, object] = {"append_s": seconds(lambda: append(store, new))}
        result |= {"tasks": len(store), "gigabytes": store.size * store.layout.width * 4 / 1e9}
        result |= measure_queries(
            store, args.measure, args.top, args.repeats, args.threads, args.faiss
        )
        if args.check:
            target = next(make_tasks(1, spec, seed=3))[1]
            result["exact"] = is_exact(store, target, args.measure, args.top)
    text = json.dumps({**result, "threads": args.threads, "measure": args.measure}, indent=2)
    print(text)
    if args.json is not None:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()

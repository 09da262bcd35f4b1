"""Speed and memory of exact queries of the fingerprint store, against a bare product.

    python benchmarks/retrieval.py [--tasks 20000] [--folder DIR] [--threads 1] [--json FILE]

All measures are of one run, each asks with another target every time, and what is compared takes
turns. `ratio` is the time of a whole query (contenders, exact distances, ranks) divided by the
mean of the two products before and after it: numpy's float32 matrix-vector product over the very
same memory-mapped bytes. Names with `cpu` compare the time that the process computed, which others
on the machine disturb less. `own_mb` is the most that a query allocates; mapped pages are the
system's file cache, which takes them back. `ratio_bounded` is of a store that keeps nothing mapped,
so that a query adds `peak_mb_bounded` to the resident memory of the process and no more, against a
product over blocks that are mapped anew as well; `--bounded` measures only this, for a matrix that
does not fit into memory. `faiss` is its IndexFlatIP with as many threads,
all of it in memory. The matrix has 209 kB a task; one is made for each layout and deleted again,
unless a folder is given.
"""

import argparse
import json
import os
import resource
import tempfile
import time
import tracemalloc
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
from strategies.augmented import MEASURES
from strategies.retrieval import Index, distances, question

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


def seconds(call: Callable[[], object]) -> NDArray[np.float64]:
    """Return how long a call takes, and how long this process computed for it."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return np.array([time.perf_counter() - wall, time.process_time() - cpu])


def own_megabytes(call: Callable[[], object]) -> float:
    """Return how much a call allocates at most, numpy's arrays included, mapped files not."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


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


class Contest:
    """A query, and what it is compared with.

    Parameters
    ----------
    store
        Filled, in the layout of the measure.
    measure, k
        What is asked.
    faiss_threads
        None leaves faiss out.
    kept
        Whether to ask a store that stays mapped, too.
    """

    def __init__(
        self,
        store: FingerprintStore,
        measure: str,
        k: int,
        *,
        faiss_threads: int | None = None,
        kept: bool = True,
    ) -> None:
        self.store, self.measure, self.k = store, measure, k
        self.bounded = FingerprintStore(store.folder, mapped=0)
        self.vector = np.random.default_rng(2).random(store.layout.width, dtype=np.float32)
        self.kept = kept
        path = store.folder / store.header.matrix
        self.matrix = np.memmap(path, np.float32, "r", shape=(store.size, store.layout.width))
        self.index: Index = BlockIndex(store)
        self.flat: Index | None = None
        if faiss_threads is not None:
            import faiss

            faiss.omp_set_num_threads(faiss_threads)
            self.flat = make_index(store, "faiss")

    def query(self, target: Fingerprint, index: Index | None = None) -> object:
        """Ask the store, which stays mapped."""
        return top_k(self.store, target, self.k, self.measure, index=index or self.index)

    def query_bounded(self, target: Fingerprint) -> object:
        """Ask the store that maps block by block."""
        return top_k(self.bounded, target, self.k, self.measure)

    def product_bounded(self) -> None:
        """Multiply block by block."""
        for _, block in self.bounded.blocks():
            block @ self.vector

    def turn(self, target: Fingerprint) -> dict[str, NDArray[np.float64]]:
        """Time everything once, see `seconds`."""
        times = {
            "product_bounded": seconds(self.product_bounded),
            "query_bounded": seconds(lambda: self.query_bounded(target)),
        }
        if self.kept:
            before = seconds(lambda: self.matrix @ self.vector)
            times["query"] = seconds(lambda: self.query(target))
            times["product"] = (before + seconds(lambda: self.matrix @ self.vector)) / 2
        if self.flat is not None:
            times["faiss"] = seconds(lambda: self.query(target, self.flat))
        return times

    def contenders(self, target: Fingerprint) -> int:
        """Return how many are left for exact distances."""
        asked = question(target, self.store.spec, self.measure)
        alive = np.ones(self.store.size, dtype=bool)
        return len(BlockIndex(self.bounded).contenders([asked], self.k, alive)[0])


def measure_queries(contest: Contest, repeats: int) -> dict[str, object]:
    """Return memory, median times, and ratios with their quartiles."""
    first, *targets = [f for _, f in make_tasks(repeats + 1, contest.store.spec, seed=1)]
    memory = {
        "peak_mb_bounded": peak_megabytes(lambda: contest.query_bounded(first)),
        "own_mb": own_megabytes(lambda: contest.query_bounded(first)),
    }
    contest.turn(first)  # maps, and fills faiss
    turns = [contest.turn(target) for target in targets]
    times = {name: np.array([turn[name] for turn in turns]) for name in turns[0]}  # [repeats, 2]
    result: dict[str, object] = {"contenders": contest.contenders(first), **memory}
    result["seconds"] = {name: float(np.median(own[:, 0])) for name, own in times.items()}
    pairs = {"ratio": ("query", "product"), "ratio_faiss": ("faiss", "product")}
    pairs["ratio_bounded"] = ("query_bounded", "product_bounded")
    for name, (of, to) in pairs.items():
        if of in times and to in times:
            wall, cpu = (times[of] / times[to]).T
            result |= {name: quartiles(wall), f"{name}_cpu": quartiles(cpu)}
    return result


def quartiles(values: NDArray[np.float64]) -> dict[str, float]:
    """Return the median and what half of the values lie between."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return {"median": float(median), "low": float(low), "high": float(high)}


def of_layout(folder: Path, measures: list[str], args: argparse.Namespace) -> dict[str, object]:
    """Fill a store and measure everything that it serves."""
    spec = make_spec(args.features, args.bins)
    store = create(folder, spec, measures[0])
    new = make_tasks(args.tasks, spec) if store.size < args.tasks else iter(())
    filling = float(seconds(lambda: append(store, new))[0])
    threads = args.threads if args.faiss else None
    results: dict[str, object] = {
        "append_s": filling,
        "gigabytes": store.size * store.layout.width * 4 / 1e9,
    }
    for measure in measures:
        result = measure_queries(
            Contest(store, measure, args.top, faiss_threads=threads, kept=not args.bounded),
            args.repeats,
        )
        if args.check:
            target = next(make_tasks(1, spec, seed=3))[1]
            result["exact"] = is_exact(store, target, measure, args.top)
        results[measure] = result
    store.close()
    return results


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--bins", type=int, default=100)
    parser.add_argument("--measure", action="append", choices=sorted(MEASURES), help="default: all")
    parser.add_argument("--top", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1, help="of BLAS and faiss")
    parser.add_argument("--folder", type=Path, default=None, help="keep the stores here")
    parser.add_argument("--faiss", action="store_true", help="compare (holds all in memory)")
    parser.add_argument("--bounded", action="store_true", help="keep nothing mapped, ever")
    parser.add_argument("--check", action="store_true", help="compare with all exact distances")
    parser.add_argument("--json", type=Path, default=None, help="write the figures here")
    args = parser.parse_args()
    asked = {name: getattr(args, name) for name in ("tasks", "threads", "repeats")}
    result: dict[str, object] = {**asked, "load": os.getloadavg()}
    chosen = args.measure or sorted(MEASURES)
    with threadpool_limits(limits=args.threads, user_api="blas"):
        for kind in sorted({MEASURES[measure] for measure in chosen}):
            measures = [measure for measure in chosen if MEASURES[measure] == kind]
            with tempfile.TemporaryDirectory() as temporary:
                folder = (args.folder or Path(temporary)) / kind
                result[kind] = of_layout(folder, measures, args)
    text = json.dumps({**result, "load_after": os.getloadavg()}, indent=2)
    print(text)
    if args.json is not None:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()

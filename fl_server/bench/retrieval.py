"""Speed of exact nearest fingerprints, against the flat index of faiss; what storing them costs."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from fl_server.bench.made_up import peaks
from fl_server.pool_search import search
from fl_server.pool_store import FingerprintStore
from fl_server.pool_writing import append, create
from fl_server.retrieval_faiss import vectors
from protocol.benchmark import Findings, Options, Ratio, in_turns, seconds
from protocol.files import sha256_hex
from protocol.fingerprint import Fingerprint
from protocol.spec import Preprocess, Spec, Weights, edges_digest
from strategies.augmented import decode, sides
from strategies.contenders import Batch, scores
from strategies.retrieval import Question, distances, question

MEASURE, TOP = "bkld-small-target", 10
FAMILIES, IMAGES = 200, 500
FAISS_MISSING = "of_faiss was left out: pip install 'fedprint[faiss]' to have it measured"

Scores = NDArray[np.float64]

SOME, FEW = 2_000, 64  # fingerprints: that rounding is judged by, and that are decoded at a time


def measure(options: Options) -> Findings:
    """Time the ten nearest of many targets among fingerprints of 512 features x 100 bins."""
    spec = make_spec(options.pick(512, 32), 100)
    faiss = _faiss()
    store = create(options.scratch / "store", spec, MEASURE)
    with threadpool_limits(limits=options.threads, user_api="blas"), store:
        filling = seconds(lambda: append(store, make_tasks(options.pick(20_000, 200), spec)))
        targets = [f for _, f in make_tasks(options.pick(100, 5), spec, seed=1)]

        def ours() -> object:
            return search(store, targets, TOP, MEASURE)

        _forget(store)
        cold = seconds(ours)
        asked = [question(target, spec, MEASURE) for target in targets]
        best = _positions(store, targets)
        figures = {
            "fingerprints": len(store),
            "targets": len(targets),
            "append_seconds": filling,
            "from_disk_seconds": cold,
            "one_target_seconds": min(seconds(lambda: _one(store, targets)) for _ in range(3)),
            "own_megabytes": _own_megabytes(ours),
            "stored_bytes": store.record.itemsize,
            "float32_bytes": 4 * spec.width * spec.bins,
            "unchanged_stored": _unchanged(_brute_force(store, asked[:2]), best[:2]),
            **_rounding(store, asked),
        }
        if faiss is None:
            figures["seconds"] = min(seconds(ours) for _ in range(options.turns))
            return Findings({}, figures, [FAISS_MISSING])
        faiss.omp_set_num_threads(options.threads)
        flat = faiss.IndexFlatIP(vectors(next(store.blocks())[1][:1], store.layout).shape[1])
        figures["faiss_build_seconds"] = seconds(lambda: _fill(flat, store))
        queries = np.stack([np.append(q.body, q.sides) for q in asked]).astype(np.float32)
        ours_s, faiss_s = in_turns(ours, lambda: flat.search(queries, TOP), options.turns)
        figures |= {
            "seconds": min(ours_s),
            "faiss_seconds": min(faiss_s),
            "faiss_one_target_seconds": min(
                seconds(lambda: flat.search(queries[:1], TOP)) for _ in range(3)
            ),
            "unchanged_faiss": _unchanged(flat.search(queries, TOP)[1], best),
        }
    meaning = f"faiss IndexFlatIP, float32, all in memory / exact top-{TOP} from the mapped store"
    ratios = [theirs / mine for theirs, mine in zip(faiss_s, ours_s, strict=True)]
    return Findings({"of_faiss": Ratio.over(ratios, meaning)}, figures)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        return None
    return faiss


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
        family[:] = peaks(rng, m, b, IMAGES)
    for task in range(number):
        pair, mixture = rng.integers(0, FAMILIES, 2), rng.random()
        chosen = np.where(rng.random(m) < mixture, pair[0], pair[1])  # [m]
        name = sha256_hex(f"{seed} {task}".encode())
        counts = families[chosen, np.arange(m)]
        yield name, Fingerprint(name[:12], counts, spec.digest, IMAGES)


def _one(store: FingerprintStore, targets: Sequence[Fingerprint]) -> object:
    return search(store, targets[:1], TOP, MEASURE)


def _positions(store: FingerprintStore, targets: Sequence[Fingerprint]) -> NDArray[np.intp]:
    """Return where the nearest lie, nearest first, ``[T, TOP]``."""
    found = search(store, targets, TOP, MEASURE)
    return np.array([[store.entries.position[task] for task in near.ids] for near in found])


def _fill(flat: Any, store: FingerprintStore) -> None:
    for _, block in store.blocks():
        flat.add(vectors(block, store.layout))


def _brute_force(store: FingerprintStore, asked: Sequence[Question]) -> NDArray[np.intp]:
    """Return the nearest by the float64 distances of every single fingerprint, ``[T, TOP]``."""
    parts = [
        np.stack([distances(block[i : i + FEW], q) for q in asked])  # [T, k]
        for _, block in store.blocks()
        for i in range(0, len(block), FEW)
    ]
    exact = np.concatenate(parts, axis=1)  # [T, n]
    return np.array([np.lexsort((store.entries.ids, column))[:TOP] for column in exact])


def _rounding(store: FingerprintStore, asked: Sequence[Question]) -> dict[str, float]:
    """Return what share of the targets keep their ten, in order, if fingerprints were rounded.

    Nobody looks twice here: who scores best among the first few thousand is the answer.
    """
    exact = Batch.of(asked, precise=True)
    body = np.stack([q.body for q in asked], axis=1, dtype=np.float32)  # [m b, T]
    kept: dict[str, list[Scores]] = {"exact": []}
    records = store.take(np.arange(min(SOME, len(store))))
    for i in range(0, len(records), FEW):
        part = records[i : i + FEW]
        kept["exact"].append(scores(part, exact))
        constants = sides(part, store.layout) @ exact.sides  # [k, T]
        for name, rows in _rounded(decode(part)).items():
            kept.setdefault(name, []).append(rows.reshape(len(rows), -1) @ body + constants)
    best = {name: np.argsort(-np.concatenate(p), axis=0)[:TOP].T for name, p in kept.items()}
    return {
        f"unchanged_{name}": _unchanged(best[name], best["exact"])
        for name in best
        if name != "exact"
    }


def _rounded(rows: NDArray[np.float64]) -> dict[str, NDArray[np.float32]]:
    """Return histograms as they come back from 16 bits, and from 8 of their largest share."""
    largest = rows.max(axis=2, keepdims=True) / 255
    return {
        "float16": rows.astype(np.float16).astype(np.float32),
        "uint8": (np.rint(rows / largest) * largest).astype(np.float32),
    }


def _unchanged(found: NDArray[np.integer[Any]], best: NDArray[np.intp]) -> float:
    return float((found == best).all(axis=1).mean())


def _forget(store: FingerprintStore) -> None:
    """Have the system forget what it holds of the file, as after a restart."""
    if hasattr(os, "posix_fadvise"):  # not on macOS
        descriptor = os.open(store.folder / store.header.matrix, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _own_megabytes(call: Callable[[], object]) -> float:
    """Return how much a call allocates at most, numpy's arrays included, mapped files not."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()

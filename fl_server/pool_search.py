"""The nearest fingerprints of a store, exactly: contenders by block, float64 on what is left.

What finds the contenders is exchangeable (`strategies.retrieval.Index`): blocks of the mapped
matrix on the CPU, the same on a GPU (`retrieval_torch`), or faiss (`retrieval_faiss`). Answers are
the same with all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from fl_server.pool_matrix import BLOCK_BYTES
from fl_server.pool_store import FingerprintStore
from protocol.errors import ConfigError, FedprintError
from protocol.fingerprint import Fingerprint
from strategies.contenders import Batch, contenders, scores, slack
from strategies.retrieval import Index, Nearest, Question, distances, question, ranked

INDEXES = ("auto", "cpu", "cuda", "mps", "faiss")
_NOBODY = np.empty(0, dtype=np.intp)
_MANY = 256  # contenders beyond which a closer look pays before exact distances


class BlockIndex:
    """Scores the mapped matrix block by block with numpy, on as many threads as BLAS may use.

    Parameters
    ----------
    store : FingerprintStore
        Where the vectors are.
    """

    def __init__(self, store: FingerprintStore) -> None:
        from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

        self.store = store
        self._blas = ThreadpoolController().select(user_api="blas")

    def contenders(
        self, asked: Sequence[Question], k: int, allowed: NDArray[np.bool_]
    ) -> list[NDArray[np.intp]]:
        """Return who can be among the k best, see `Index.contenders`."""
        values = np.empty((self.store.size, len(asked)))  # [n, T]
        threads = max((library["num_threads"] for library in self._blas.info()), default=1)
        blocks, turn = self.store.blocks(limit=BLOCK_BYTES // threads), Lock()
        batch = Batch.of(asked)

        def work() -> None:
            while True:
                with turn:
                    start, block = next(blocks, (0, None))
                if block is None:
                    return
                values[start : start + len(block)] = scores(block, batch)

        # a thread per block: those of BLAS would wait for each other after every few megabytes
        with self._blas.limit(limits=1), ThreadPoolExecutor(threads) as pool:
            for done in [pool.submit(work) for _ in range(threads)]:
                done.result()
        return [
            contenders(column, slack(column, q), k, allowed)
            for column, q in zip(values.T, asked, strict=True)
        ]


def make_index(store: FingerprintStore, device: str = "auto") -> Index:
    """Return what looks for contenders.

    Parameters
    ----------
    store : FingerprintStore
        Where the vectors are.
    device : str
        ``auto`` is a CUDA device if torch has one and the matrix fits into its memory, else
        ``cpu``; ``faiss`` copies the matrix into memory; others are devices of torch.

    Raises
    ------
    ConfigError
        When there is no such device, or faiss is not installed.
    """
    if device == "cpu":
        return BlockIndex(store)
    if device == "faiss":
        from fl_server.retrieval_faiss import FaissIndex

        return FaissIndex(store)
    from fl_server.retrieval_torch import TorchIndex, fits

    if device == "auto":
        return TorchIndex(store, "cuda") if fits(store, "cuda") else BlockIndex(store)
    return TorchIndex(store, device)


def top_k(
    store: FingerprintStore,
    target: Fingerprint,
    k: int,
    measure: str = "bkld-small-target",
    *,
    exclude: Collection[str] = (),
    index: Index | None = None,
) -> Nearest:
    """Return the k nearest tasks of a target.

    Parameters
    ----------
    store : FingerprintStore
        Of the target's spec, in the measure's layout.
    target : Fingerprint
        It need not be in the store.
    k : int
        How many to return; fewer if there are fewer.
    measure : str
        One of `strategies.augmented.MEASURES`.
    exclude : collection of str
        Ids of tasks that are no candidates: the target itself, or its exclusion group.
    index : Index or None
        Who looks for contenders; `BlockIndex` by default.

    Raises
    ------
    ConfigError, SpecMismatch
        When k is below 1, or store, target and measure do not fit together.
    FedprintError
        When the store is damaged.
    """
    return search(store, [target], k, measure, exclude=[exclude], index=index)[0]


def search(
    store: FingerprintStore,
    targets: Sequence[Fingerprint],
    k: int,
    measure: str = "bkld-small-target",
    *,
    exclude: Sequence[Collection[str]] | None = None,
    index: Index | None = None,
) -> list[Nearest]:
    """Return the k nearest tasks of several targets, reading the matrix once; see `top_k`."""
    if k < 1:
        raise ConfigError(f"cannot return {k} nearest tasks: ask for at least 1")
    if not targets:
        return []
    store.require(store.spec, measure)
    asked = [question(target, store.spec, measure) for target in targets]
    excluded = [()] * len(asked) if exclude is None else exclude
    store.refresh()
    for last in (False, True):
        try:
            return _answers(store, asked, k, excluded, index or BlockIndex(store))
        except FedprintError:
            # a task may have been withdrawn under our eyes: then there is something to look at
            if last or not store.refresh():
                raise
    raise AssertionError("unreachable")


def _answers(
    store: FingerprintStore,
    asked: Sequence[Question],
    k: int,
    exclude: Sequence[Collection[str]],
    index: Index,
) -> list[Nearest]:
    alive = np.asarray(store.entries.alive, dtype=bool)
    masks = [_without(store, alive, names) for names in exclude]
    spare = max((int(alive.sum() - mask.sum()) for mask in masks), default=0)
    # one pass for all: whoever is excluded for one target only takes up a place of the k
    found = index.contenders(asked, k + spare, alive) if alive.any() else [_NOBODY] * len(asked)
    answers = []
    for q, mask, positions in zip(asked, masks, found, strict=True):
        few = _closer(store, q, k, positions[mask[positions]])
        exact = np.concatenate([distances(store.take(part), q) for part in _parts(store, few)])
        names = [store.entries.ids[p] for p in few.tolist()]
        answers.append(ranked(names, exact, k, int(mask.sum())))
    return answers


def _without(
    store: FingerprintStore, alive: NDArray[np.bool_], names: Collection[str]
) -> NDArray[np.bool_]:
    mask = alive.copy()
    mask[[p for name in names if (p := store.entries.position.get(name)) is not None]] = False
    return mask


def _closer(
    store: FingerprintStore, asked: Question, k: int, positions: NDArray[np.intp]
) -> NDArray[np.intp]:
    """Thin out many contenders by float64 products, far cheaper than exact distances."""
    if len(positions) <= max(_MANY, k):
        return positions
    parts = _parts(store, positions)
    batch = Batch.of([asked], precise=True)
    values = np.concatenate([scores(store.take(p), batch)[:, 0] for p in parts])
    bound = slack(values, asked, precise=True)
    return positions[contenders(values, bound, k, np.ones(len(positions), dtype=bool))]


def _parts(store: FingerprintStore, positions: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Split positions so that their rows, in float64 and with temporaries, fill a block."""
    step = max(1, BLOCK_BYTES // (32 * store.layout.features * store.layout.bins))
    return [positions[i : i + step] for i in range(0, max(1, len(positions)), step)]

"""The nearest fingerprints of a store, exactly: contenders by block, float64 on what is left.

What finds the contenders is exchangeable (`strategies.retrieval.Index`): blocks of the mapped
matrix on the CPU, the same on a GPU (`retrieval_torch`), or faiss (`retrieval_faiss`). Answers are
the same with all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fl_server.pool_matrix import BLOCK_BYTES
from fl_server.pool_store import FingerprintStore
from protocol.errors import ConfigError, FedprintError
from protocol.fingerprint import Fingerprint
from strategies.augmented import Records
from strategies.blas import single_blas
from strategies.contenders import Batch, contenders, scores, slack
from strategies.retrieval import Index, Nearest, Question, distances, question, ranked

INDEXES = ("auto", "cpu", "cuda", "mps", "faiss")
_NOBODY = np.empty(0, dtype=np.intp)
_MANY = 256  # contenders beyond which a closer look pays before exact distances
_WIDE, _LONG = (
    16,
    10**11,
)  # targets and products from which on oneDNN pays, importing torch included

Item = TypeVar("Item")
Result = TypeVar("Result")


class BlockIndex:
    """Scores the mapped records block by block, on as many threads as BLAS may use.

    Parameters
    ----------
    store : FingerprintStore
        Where the fingerprints are.
    """

    def __init__(self, store: FingerprintStore) -> None:
        self.store = store

    def contenders(
        self, asked: Sequence[Question], k: int, allowed: NDArray[np.bool_]
    ) -> list[NDArray[np.intp]]:
        """Return who can be among the k best, see `Index.contenders`."""
        values = np.empty((self.store.size, len(asked)))  # [n, T]
        with _multiplying(asked, self.store) as batch, single_blas() as threads:
            limit = BLOCK_BYTES // threads

            def work(block: tuple[int, Records]) -> None:
                start, records = block
                values[start : start + len(records)] = scores(records, batch)

            _threaded(work, self.store.blocks(limit=limit))
        return [
            contenders(column, slack(column, q), k, allowed)
            for column, q in zip(values.T, asked, strict=True)
        ]


@contextmanager
def _multiplying(asked: Sequence[Question], store: FingerprintStore) -> Iterator[Batch]:
    """Put questions side by side for numpy, or for oneDNN where that pays."""
    if len(asked) >= _WIDE and len(asked) * store.size * asked[0].body.size >= _LONG:
        from fl_server.retrieval_onednn import available, by_onednn, one_thread

        if available():
            with one_thread():
                yield Batch.of(asked, factor=by_onednn)
            return
    yield Batch.of(asked)


def _threaded(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Do work on items that are taken one by one, on as many threads as BLAS may use."""
    turn, todo = Lock(), enumerate(items)
    done: dict[int, Result] = {}

    def run() -> None:
        while True:
            with turn:
                i, item = next(todo, (-1, None))
            if item is None:
                return
            done[i] = work(item)

    with single_blas() as threads, ThreadPoolExecutor(threads) as pool:
        for ended in [pool.submit(run) for _ in range(threads)]:
            ended.result()
    return [done[i] for i in range(len(done))]


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

    def answer(i: int) -> Nearest:
        few = _closer(store, asked[i], k, found[i][masks[i][found[i]]])
        exact = [distances(store.take(part), asked[i]) for part in _parts(store, few)]
        names = [store.entries.ids[p] for p in few.tolist()]
        return ranked(names, np.concatenate(exact), k, int(masks[i].sum()))

    return _threaded(answer, range(len(asked)))


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

"""One thread of BLAS in blocks that may overlap."""

from __future__ import annotations

from contextlib import ExitStack
from threading import Thread

import pytest
from threadpoolctl import ThreadpoolController, threadpool_limits

from strategies.blas import single_blas


def threads() -> int:
    blas = ThreadpoolController().select(user_api="blas")
    return max(one["num_threads"] for one in blas.info())


def test_who_leaves_last_lifts_the_limit() -> None:
    with threadpool_limits(2, "blas"):
        if threads() != 2:
            pytest.skip("this BLAS has one thread only")
        early, late = ExitStack(), ExitStack()
        assert early.enter_context(single_blas()) == 2
        assert late.enter_context(single_blas()) == 2  # not 1: it is told what the process has
        leaving = Thread(target=early.close)
        leaving.start()
        leaving.join()
        assert threads() == 1
        late.close()
        assert threads() == 2
        with pytest.raises(KeyError), single_blas():
            raise KeyError
        assert threads() == 2

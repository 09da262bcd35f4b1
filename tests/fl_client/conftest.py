from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # for fixtures_sites
torch.set_num_threads(1)  # the small networks of these tests gain nothing from more

from fixtures_sites import tiny_spec  # noqa: E402

from protocol.spec import Spec  # noqa: E402


@pytest.fixture(scope="session")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Spec:
    return tiny_spec(tmp_path_factory.mktemp("spec"))

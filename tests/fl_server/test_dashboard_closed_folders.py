"""The dashboard beside folders that it may not look into."""

from __future__ import annotations

from pathlib import Path

import pytest

from fl_server.dashboard.folders import find_runs


def test_a_folder_that_is_not_ours_is_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").mkdir()

    def refuse(_: Path) -> bool:
        raise PermissionError

    monkeypatch.setattr(Path, "is_file", refuse)
    assert find_runs(tmp_path) == {}

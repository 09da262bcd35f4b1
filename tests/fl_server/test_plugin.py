"""The example of docs/how-to/plugin.md, taken from the page itself, on Flower's real engine."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from fl_client.node import site_policy
from fl_server.engine import simulate
from protocol.errors import ConfigError, FedprintError

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "plugin.md"
BLOCK = re.compile(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)


def example_files() -> dict[str, str]:
    """Return the complete files that the page shows, by path."""
    return dict(BLOCK.findall(PAGE.read_text()))


def test_page_shows_a_whole_app() -> None:
    files = example_files()
    assert sorted(files) == ["myapp/client_app.py", "myapp/server_app.py", "pyproject.toml"]
    assert tomllib.loads(files["pyproject.toml"])["tool"]["flwr"]["app"]["config"]["sites"] == 4


def test_one_line_adds_fingerprinting() -> None:
    lines = example_files()["myapp/client_app.py"].splitlines()
    marked = [line for line in lines if line.endswith("# fedprint")]
    assert marked == [
        "from fl_client.plugin import add_fingerprinting  # fedprint",
        "add_fingerprinting(app, folder)  # fedprint",
    ]


@pytest.mark.engine
def test_example_groups_the_sites_and_trains_each_group(families: Path, tmp_path: Path) -> None:
    app = tmp_path / "app"
    for name, text in example_files().items():
        (app / name).parent.mkdir(parents=True, exist_ok=True)
        (app / name).write_text(text)
    data, out = tmp_path / "data", tmp_path / "groups.json"
    for number in "12":  # the example's own loader reads class subfolders of PNG files
        for family in ("digits-a", "photos-b"):
            site = shutil.copytree(families / family, data / f"{family}-{number}")
            shutil.rmtree(site / ".fedprint", ignore_errors=True)
            for path in sorted(site.rglob("*.png"))[int(number) % 2 :: 2]:
                path.unlink()  # two sites, no image in common

    log: list[str] = []
    settings = {"data": str(data), "out": str(out), "sites": 4}
    try:
        simulate(4, settings, app=app, verbose=True, show=log.append)
    except FedprintError as error:
        pytest.fail("\n".join([*log[-60:], str(error)]))
    found = json.loads(out.read_text())
    assert [group["sites"] for group in found.values()] == [
        ["digits-a-1", "digits-a-2"],
        ["photos-b-1", "photos-b-2"],
    ]
    for group in found.values():
        first, last = group["accuracy"]  # one a round
        assert last >= first
        assert last > 0.8
    assert not list(data.rglob(".fedprint")), "the plugin wrote into the sites' own folders"


def node(**config: str | int) -> SimpleNamespace:
    """Return what of Flower's context the plugin reads."""
    return SimpleNamespace(node_config=config, run_config={})


def test_simulated_site_has_the_built_in_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fl_client.node.simulated", lambda: True)
    assert site_policy(node(**{"partition-id": 0, "num-partitions": 4})).specs == ["*"]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "config",
    [{}, {"site": "/data/site"}, {"partition-id": 0, "site": "x"}, {"partition-id": 0}],
)
def test_deployed_site_without_a_policy_releases_nothing(config: dict[str, str | int]) -> None:
    with pytest.raises(ConfigError) as caught:
        site_policy(node(**config))  # type: ignore[arg-type]
    assert str(caught.value) == (
        "no release policy: start the SuperNode with --node-config 'policy=\"FILE\"'"
    )

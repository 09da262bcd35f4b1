"""What docs/how-to/deployment.md has people copy fits what the commands make."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from tests.fl_server.running import ROOT

PAGE = ROOT / "docs" / "how-to" / "deployment.md"
FOLDER = ROOT / "docs" / "how-to" / "deployment"


def test_the_run_file_has_known_settings() -> None:
    import tomllib

    from fl_server.simulation import check_settings

    [block] = re.findall(r"<<'END'\n(.*?)^END", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    check_settings(tomllib.loads(block))


def test_compose_file_starts_what_the_commands_make() -> None:
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    assert services["coordinator"]["entrypoint"] == ["/srv/fedprint/superlink.sh"]
    assert services["site"]["command"] == ["site", "start", "/srv/fedprint"]
    for file in sorted(Path(FOLDER).glob("*.service")):
        assert "ExecStart=/opt/fedprint/bin/fedprint s" in file.read_text()

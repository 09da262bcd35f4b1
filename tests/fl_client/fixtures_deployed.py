"""Sites as ``fedprint site init`` makes them."""

from __future__ import annotations

from pathlib import Path

from fixtures_sites import write_classes
from fixtures_tls import Authority

from fl_client.site_init import NewSite, init_site
from fl_client.site_settings import SiteSettings, load_site_settings


def deployed(folder: Path, superlink: str = "127.0.0.1:9", **choices: object) -> SiteSettings:
    """Make a site with twelve images a class in two classes."""
    data = folder.parent / f"{folder.name}-data"
    if not data.exists():
        write_classes(data, {"grey": 12, "white": 12})
    authority = folder.parent / "authority" / "ca.crt"
    if not authority.exists():
        Authority(authority.parent)
    named = {
        "name": folder.name,
        "data": data,
        "superlink": superlink,
        "certificates": authority.read_text(),
    }
    init_site(folder, NewSite(**(named | choices)))  # type: ignore[arg-type]
    settings = load_site_settings(folder)
    policy = settings.policy.read_text()  # asks for more images than these few
    settings.policy.write_text(policy.replace("images_per_bin = 10", "images_per_bin = 2"))
    return settings

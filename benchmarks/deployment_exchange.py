"""What the fingerprint exchange costs over a real deployment, against bare query rounds of Flower.

    python benchmarks/deployment_exchange.py [--rounds 20] [--folder DIR] [--json FILE]

One deployment of four sites (TLS, node authentication) and one run, in which a ServerApp alternates
in random order between `exchange_fingerprints`, with the releases cached at the sites, and a bare
query: as many (random) bytes there and back, and a ClientApp that loads the same modules. `of_bare`
looks for replies as often as fedprint does, `of_stock` every 3 s, as Flower's `send_and_receive`
does. Every round waits for the SuperNodes' own polling (3 s), hence the medians of many.
"""

import argparse
import json
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np

from fl_server.demo_data import write_demo_sites
from fl_server.deployment import Deployment
from fl_server.deployment_demo import SITES
from fl_server.engine import assemble_app

HERE = Path(__file__).parent


def benchmark_app(folder: Path) -> Path:
    """Return fedprint's app with the benchmark's components in place of its own."""
    app = assemble_app(folder)
    shutil.copy(HERE / "exchange_server.py", app / "fl_server" / "exchange_server.py")
    shutil.copy(HERE / "exchange_client.py", app / "fl_client" / "exchange_client.py")
    project = (app / "pyproject.toml").read_text()
    project = re.sub(r'serverapp = ".*"', 'serverapp = "fl_server.exchange_server:app"', project)
    project = re.sub(r'clientapp = ".*"', 'clientapp = "fl_client.exchange_client:app"', project)
    (app / "pyproject.toml").write_text(project)
    return app


def ratio(a: list[float], b: list[float], seed: int = 0) -> dict[str, float]:
    """Return the ratio of two medians with its 95 % bootstrap interval."""
    rng = np.random.default_rng(seed)
    drawn = [
        np.median(rng.choice(a, len(a))) / np.median(rng.choice(b, len(b))) for _ in range(10_000)
    ]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {"ratio": float(np.median(a) / np.median(b)), "low": float(low), "high": float(high)}


def measure(folder: Path, rounds: int) -> dict[str, object]:
    """Deploy, run once, and compare."""
    images = write_demo_sites(folder / "images", sites=SITES)
    app, out = benchmark_app(folder / "app"), folder / "seconds.json"
    with Deployment(folder / "deployment", app=app) as deployment:
        for site in images:
            deployment.add_site(site.name, site)
        deployment.await_online(plan.name for plan in SITES)
        values = {"out": str(out), "spec": "lite0-private", "rounds": rounds}
        deployment.run({**values, "min-sites": len(SITES)})
    result = json.loads(out.read_text())
    seconds = result["seconds"]
    return {
        "sites": len(SITES),
        "rounds": rounds,
        "request_bytes": result["request_bytes"],
        "reply_bytes": result["reply_bytes"],
        "ratios": {
            "of_bare": ratio(seconds["exchange"], seconds["bare"]),
            "of_stock": ratio(seconds["exchange"], seconds["stock"]),
        },
        "median_seconds": {name: float(np.median(values)) for name, values in seconds.items()},
        "seconds": seconds,
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--folder", type=Path, default=None, help="keep everything here")
    parser.add_argument("--json", type=Path, default=None, help="write the figures here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fedprint-") as scratch:
        result = measure(args.folder or Path(scratch), args.rounds)
    text = json.dumps(result, indent=2)
    print(text)
    if args.json is not None:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()

"""Tiles of whole slides: a pyramid of tissue on glass, written as TIFF."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from sklearn.datasets import load_sample_image

from fl_client.readers import Cut, Source, open_file
from fl_client.site import read_site
from protocol.errors import DataError

SIDE = 64
SLIDE = np.full((640, 768, 3), 240, np.uint8)  # glass, and a piece of tissue of 4 x 5 tiles
SLIDE[128:384, 64:384] = load_sample_image("flower.jpg")[:256, 100:420]
SLIDE[128:384, 64:384, 0] |= 128  # reddish, as stained tissue is


def write_slide(path: Path, **more: object) -> Path:
    """Write a pyramid of two levels with 0.5 micrometres a pixel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"tile": (64, 64), "photometric": "rgb", "metadata": None} | more
    if "resolution" not in options:
        options |= {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as file:
        file.write(SLIDE, **options)  # type: ignore[arg-type]
        file.write(SLIDE[::2, ::2], subfiletype=1, **options)  # type: ignore[arg-type]
    return path


def fault(sources: list[Source]) -> str:
    with pytest.raises(DataError) as caught:
        sources[0].pixels()
    assert len(sources) == 1
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(sources[0].path), "FILE")


def test_a_grid_of_tiles_with_tissue(tmp_path: Path) -> None:
    tiles = open_file(write_slide(tmp_path / "a.tif"), Cut(tile=SIDE))
    assert len(tiles) == 4 * 5
    assert tiles[0].place == "tile 64 at 64,128 of level 0"
    assert np.array_equal(tiles[0].pixels(), SLIDE[128:192, 64:128])
    assert tiles[0].size == (SIDE, SIDE)
    assert len({tile.content_digest() for tile in tiles}) == 20


def test_coarser_tiles(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "a.tif")
    half = SLIDE[::2, ::2]
    by_level = open_file(path, Cut(tile=SIDE, level=1))
    by_mpp = open_file(path, Cut(tile=SIDE, mpp=1.0))
    assert len(by_level) == len(by_mpp)
    assert np.array_equal(by_level[0].pixels(), by_mpp[0].pixels())
    top = int(by_level[0].place.split(",")[1].split()[0]) // 2
    left = int(by_level[0].place.split("at ")[1].split(",")[0]) // 2
    assert np.array_equal(by_level[0].pixels(), half[top : top + SIDE, left : left + SIDE])
    (between, *_) = open_file(path, Cut(tile=SIDE, mpp=0.75))
    assert between.pixels().shape == (SIDE, SIDE, 3)
    place = [int(x) for x in between.place.split("at ")[1].split(" of")[0].split(",")]
    region = SLIDE[place[1] : place[1] + 96, place[0] : place[0] + 96]
    resized = Image.fromarray(region).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    assert np.array_equal(between.pixels(), np.asarray(resized))


def test_a_site_of_slides(tmp_path: Path) -> None:
    for name in ("tumour/1.tif", "normal/2.tif"):
        write_slide(tmp_path / "folders" / name)
    (tmp_path / "folders" / "site.toml").write_text(f"[data]\ntile = {SIDE}\nmpp = 0.5")
    site = read_site(tmp_path / "folders")
    assert (len(site.images), site.patients) == (40, 2)
    write_slide(tmp_path / "rows" / "s.tif")
    rows = [
        "path,label,subject_id,x,y",
        "s.tif,b,p,64,128",
        "s.tif,a,p,700,570",
        "s.tif,b,p,65,128",
    ]
    (tmp_path / "rows" / "labels.csv").write_text("\n".join(rows))
    (tmp_path / "rows" / "site.toml").write_text(f'[data]\nmanifest = "labels.csv"\ntile = {SIDE}')
    site = read_site(tmp_path / "rows")
    assert site.labels.tolist() == [1, 1, 0]
    assert np.array_equal(site.images[2].pixels(), SLIDE[570:634, 700:764])
    (tmp_path / "rows" / "labels.csv").write_text("\n".join([*rows, rows[1]]))
    with pytest.raises(DataError, match=r"line 5: s\.tif is listed twice: keep one line$"):
        read_site(tmp_path / "rows")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("s.tif,a,p,-1,0", "line 2: x is '-1' and y is '0': write pixels of level 0"),
        ("s.tif,a,p,1,", "line 2: x is '1' and y is '': write pixels of level 0"),
        ("p.png,a,p,1,1", "line 2: x and y belong to a whole slide: leave them empty"),
    ],
)
def test_rows_that_name_no_tile(tmp_path: Path, row: str, message: str) -> None:
    write_slide(tmp_path / "s.tif")
    Image.fromarray(SLIDE).save(tmp_path / "p.png")
    (tmp_path / "labels.csv").write_text(f"path,label,subject_id,x,y\n{row}\n")
    (tmp_path / "site.toml").write_text('[data]\nmanifest = "labels.csv"\ntile = 64')
    with pytest.raises(DataError) as caught:
        read_site(tmp_path)
    assert str(caught.value) == f"{tmp_path}/labels.csv, {message}"


def test_a_tile_outside_the_slide(tmp_path: Path) -> None:
    write_slide(tmp_path / "s.tif")
    (tmp_path / "labels.csv").write_text("path,label,subject_id,x,y\ns.tif,a,p,705,0\n")
    (tmp_path / "site.toml").write_text('[data]\nmanifest = "labels.csv"\ntile = 64')
    assert fault([item.held for item in read_site(tmp_path).images]) == (
        "image FILE: the tile at x = 705, y = 0 ends outside the slide of 768 x 640 pixels: "
        "correct the manifest"
    )


def test_what_is_refused(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "a.tif")
    assert fault(open_file(path, Cut(tile=SIDE, level=2))) == (
        "image FILE has the levels 0 to 1: correct [data] level"
    )
    assert fault(open_file(path, Cut(tile=SIDE, mpp=0.2))) == (
        "image FILE has 0.5 micrometres a pixel, too coarse for mpp = 0.2: correct [data] mpp"
    )
    assert fault(open_file(path, Cut(tile=600))) == (
        "image FILE shows no tissue in tiles of 600 pixels of level 0: name tiles by x and y in "
        "the manifest, or correct [data] tile, mpp or level"
    )
    silent = write_slide(tmp_path / "b.tif", resolution=None)
    assert fault(open_file(silent, Cut(tile=SIDE, mpp=1))) == (
        "image FILE does not say its micrometres a pixel: give [data] level instead of mpp"
    )
    named = path.rename(tmp_path / "c.svs")
    assert fault(open_file(named)) == (
        "image FILE is a whole slide: add tile = 256 to [data] of site.toml"
    )
    named.write_bytes(named.read_bytes()[:100])
    assert fault(open_file(named, Cut(tile=SIDE))).startswith(
        "image FILE cannot be read as a whole slide ("
    )


def test_a_resolution_that_would_fill_the_memory(tmp_path: Path) -> None:
    fine = write_slide(tmp_path / "a.tif", resolution=(1e8, 1e8), resolutionunit="CENTIMETER")
    assert fault(open_file(fine, Cut(tile=SIDE, mpp=0.5))) == (
        "image FILE has 0.0001 micrometres a pixel: a tile of 64 pixels at mpp = 0.5 would be "
        "read from 1.6e+05 x 1.6e+05: correct [data] mpp, or give level instead"
    )
    assert len(open_file(fine, Cut(tile=SIDE, level=0))) == 20


def test_a_slide_without_an_overview(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_slide(tmp_path / "a.tif")
    monkeypatch.setattr("fl_client.readers.slides.LARGEST", SIDE * SIDE)
    assert fault(open_file(path, Cut(tile=SIDE))) == (
        "image FILE has no level small enough to look for tissue in, the best has 768 x 640 "
        "pixels: write it as a pyramid, or name tiles by x and y in a manifest"
    )
    row = "path,label,subject_id,x,y\na.tif,a,p,64,128\n"
    (tmp_path / "labels.csv").write_text(row)
    (tmp_path / "site.toml").write_text(f'[data]\nmanifest = "labels.csv"\ntile = {SIDE}')
    (tile,) = read_site(tmp_path).images
    assert np.array_equal(tile.pixels(), SLIDE[128:192, 64:128])

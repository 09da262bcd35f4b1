"""Label maps: how they are listed and decoded, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fixtures_masks import TOML, label_map, region_spec, write_masked
from fixtures_readers import write_nifti
from fixtures_sites import picture
from PIL import Image

from fl_client.doctor import examine_data
from fl_client.extract import extract
from fl_client.finding import Finding
from fl_client.readers.masks import Mask
from fl_client.readers.source import Picture
from fl_client.regions import regions_of
from fl_client.site import opened_stamp, read_site
from protocol.errors import DataError


def classes_of(folder: Path) -> list[list[list[int]]]:
    return [item.mask.classes().tolist() for item in read_site(folder).images if item.mask]


def fault(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        classes_of(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(folder), "SITE")


def test_every_form_of_the_same_masks_is_the_same(tmp_path: Path) -> None:
    site = read_site(write_masked(tmp_path / "png", 4))
    assert [held.name for held in site.card.classes] == ["disc", "left"]  # by value
    assert (site.card.objective, site.patients) == ("segmentation", 4)
    pixels = np.stack([item.pixels()[..., 0] for item in site.images])
    masks = np.stack([label_map(disc=number + 1) for number in range(4)])
    expected = classes_of(site.folder)
    assert expected[3] == np.select([masks[3] == 3, masks[3] == 7], [1, 2]).tolist()

    (tmp_path / "npz").mkdir()
    toml = TOML.replace('manifest = "labels.csv"', 'npz = "site.npz"')
    (tmp_path / "npz/site.toml").write_text(toml)
    np.savez(tmp_path / "npz/site.npz", train_images=pixels, train_masks=masks.astype(np.int32))
    assert classes_of(tmp_path / "npz") == expected

    volumes = tmp_path / "nifti"
    for name, values, axes in (("image", pixels, "RAS"), ("mask", masks, "LPS")):
        turned = np.moveaxis(values, 0, 2)[::-1].transpose(1, 0, 2)  # as rot90 shows it again
        write_nifti(volumes / f"{name}.nii.gz", turned, axes)
    (volumes / "site.toml").write_text(TOML)
    (volumes / "labels.csv").write_text("path,mask,subject_id\nimage.nii.gz,mask.nii.gz,p1\n")
    assert classes_of(volumes) == expected
    spec = region_spec(tmp_path)
    grey = extract(read_site(volumes).images, spec, device="cpu").counts
    assert grey is not None
    assert np.array_equal(
        grey, extract(read_site(tmp_path / "npz").images, spec, device="cpu").counts
    )


@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16", "I"])
def test_label_maps_of_one_number_a_pixel(tmp_path: Path, mode: str) -> None:
    stored = np.array([[0, 1], [1, 0]], np.uint8)
    image = Image.fromarray(stored.astype(bool) if mode == "1" else stored)
    if mode == "P":
        image = image.convert("P")
        image.putdata([0, 1, 1, 0])
        image.putpalette([9, 9, 9, 200, 0, 0])
    elif mode in ("I;16", "I"):
        image = Image.fromarray(stored.astype(np.uint16 if mode == "I;16" else np.int32))
    path = tmp_path / ("mask.tif" if mode == "I" else "mask.png")
    image.save(path)
    assert Mask(Picture(path), (1,)).classes().tolist() == stored.tolist()


def break_value(site: Path) -> None:
    Image.fromarray(np.full((24, 30), 9, np.uint8)).save(site / "masks/1.png")


def break_colour(site: Path) -> None:
    Image.fromarray(picture(0)).save(site / "masks/1.png")


def break_jpeg(site: Path) -> None:
    Image.fromarray(label_map()).save(site / "masks/1.png", "JPEG")


def rewrite(old: str, new: str) -> Callable[[Path], None]:
    def change(site: Path) -> None:
        for path in (site / "labels.csv", site / "site.toml"):
            path.write_text(path.read_text().replace(old, new))

    return change


def link_out(site: Path) -> None:
    (site / "masks/1.png").unlink()
    (site / "masks/1.png").symlink_to(site.parent / "secret.png")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            break_value,
            "mask masks/1.png holds the values 9, which [task.classes] of site.toml does not name: "
            "name them there, or make them 0",
        ),
        (
            break_colour,
            "image SITE/masks/1.png is no label map (its pixels are RGB): save one whole number a "
            "pixel, as a grey or palette PNG",
        ),
        (break_jpeg, "image SITE/masks/1.png cannot be read"),
        (
            rewrite("masks/1.png", "masks/9.png"),
            "SITE/labels.csv, line 3: mask masks/9.png does not exist: restore it or drop this",
        ),
        (
            rewrite(",masks/1.png", ","),
            "SITE/labels.csv, line 3: mask is empty: fill it in, or drop the line",
        ),
        (
            rewrite("masks/1.png", "../secret.png"),
            "SITE/labels.csv, line 3: ../secret.png lies outside the site's folder: copy it into",
        ),
        (
            link_out,
            "SITE/labels.csv, line 3: masks/1.png lies outside the site's folder: copy it into",
        ),
        (
            rewrite("masks/1.png", "labels.csv"),
            "SITE/labels.csv, line 3: mask labels.csv is no label map: give PNG or NIfTI",
        ),
        (
            rewrite("path,mask", "path,label"),
            "manifest SITE/labels.csv lacks the column mask: its first line must name "
            "path,mask,subject_id[,split]",
        ),
        (
            rewrite('manifest = "labels.csv"', ""),
            "SITE/site.toml: a segmentation has masks: name a manifest with the column mask, or an "
            "npz file with train_masks",
        ),
        (
            rewrite('7 = "left"', 'x = "left"'),
            "SITE/site.toml: task: 'x' is no value of a pixel: write 0 to 65535",
        ),
        (
            rewrite('7 = "left"', '7 = "disc"'),
            "SITE/site.toml: task: 3 = 'disc' stands twice: keep one",
        ),
        (
            rewrite('objective = "segmentation"', ""),
            'SITE/site.toml: task: classes belongs to objective = "segmentation"',
        ),
        (
            rewrite('7 = "left"\n3 = "disc"\n', ""),
            "SITE/site.toml: task: a segmentation needs [task.classes]: a line such as 1 = "
            '"lesion" for each value of the masks\' pixels',
        ),
    ],
)
def test_masks_that_are_refused(tmp_path: Path, change: Callable[[Path], None], text: str) -> None:
    site = write_masked(tmp_path / "site", 3)
    Image.fromarray(label_map()).save(tmp_path / "secret.png")
    change(site)
    assert fault(site).startswith(text)


def test_volumes_on_other_voxels(tmp_path: Path) -> None:
    cube = np.zeros((4, 5, 6), np.uint8)
    write_nifti(tmp_path / "image.nii", cube)
    (tmp_path / "site.toml").write_text(TOML)
    manifest = tmp_path / "labels.csv"
    manifest.write_text("path,mask,subject_id\nimage.nii,mask.nii,p1\n")
    for shape, text in (
        ((4, 5, 5), "mask mask.nii holds 5 label maps for 6 images: give one of the same kind and"),
        ((5, 5, 6), "mask mask.nii does not lie on the voxels of its image: resample it to them"),
    ):
        write_nifti(tmp_path / "mask.nii", np.zeros(shape, np.uint8))
        assert fault(tmp_path).startswith(
            f"{manifest}, line 2: {text}".replace(str(tmp_path), "SITE")
        )


def test_a_changed_or_damaged_volume_of_masks(tmp_path: Path) -> None:
    cube = np.zeros((4, 5, 6), np.uint8)
    for name in ("image.nii", "mask.nii"):
        write_nifti(tmp_path / name, cube)
    (tmp_path / "site.toml").write_text(TOML)
    (tmp_path / "labels.csv").write_text("path,mask,subject_id\nimage.nii,mask.nii,p1\n")
    site = read_site(tmp_path)
    before = opened_stamp(site)
    (tmp_path / "mask.nii").write_bytes(b"damaged")
    assert opened_stamp(site) != before  # so that its slices are listed anew
    assert "mask.nii cannot be read" in fault(tmp_path)


def test_arrays_that_do_not_fit(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(TOML.replace('manifest = "labels.csv"', 'npz = "a.npz"'))
    images = np.zeros((3, 8, 9), np.uint8)
    for masks, text in (
        (None, "has train_images but no train_masks: add them"),
        (np.zeros((3, 9, 8), int), "train_masks has shape (3, 9, 8) and type int64: give whole"),
        (np.zeros((3, 8, 9)), "train_masks has shape (3, 8, 9) and type float64: give whole"),
    ):
        held = {} if masks is None else {"train_masks": masks}
        np.savez(tmp_path / "a.npz", train_images=images, **held)
        assert text in fault(tmp_path)


def found(folder: Path) -> dict[str, Finding]:
    return {f.reason: f for f in examine_data(folder) if f.state != "ok"}


def test_what_site_check_says(tmp_path: Path) -> None:
    good = write_masked(tmp_path / "good", 6)
    assert found(good) == {}
    regions = next(f for f in examine_data(good) if f.name == "regions")
    assert regions.found == "images that show disc: 6, left: 6"
    break_value(good)
    Image.fromarray(label_map(20, 30)).save(good / "masks/2.png")
    Image.fromarray(np.zeros((24, 30), np.uint8)).save(good / "masks/3.png")
    rewrite('7 = "left"', '7 = "left"\n8 = "right"')(good)
    said = found(good)
    assert said.keys() == {"bad-masks", "no-contrast", "empty-masks"}
    assert said["bad-masks"].found == (
        "2 of 6 cannot be used: mask masks/1.png holds the values 9, which [task.classes] of "
        "site.toml does not name (and 1 more)"
    )
    assert said["no-contrast"].found == "no mask shows right (disc: 3, left: 3, right: 0)"
    assert said["empty-masks"].found == "1 of 4 masks show no class: images/3.png"
    assert (
        len(regions_of(read_site(write_masked(tmp_path / "again", 6)), region_spec(tmp_path))) > 6
    )

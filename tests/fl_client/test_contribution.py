"""Which images a private release counts."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from fixtures_sites import write_classes, write_manifest
from hypothesis import given
from hypothesis import strategies as st

from fl_client.contribution import (
    MEMO,
    cap_of,
    counted,
    counted_digest,
    counted_images,
    counted_number,
)
from fl_client.site import ImageItem, Site, read_site
from protocol.taskcard import ClassCard, TaskCard

ROWS = [f"p{patient}-{image}.png,a,p{patient}" for patient in range(4) for image in range(patient)]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return read_site(write_manifest(tmp_path / "north", ROWS))


class Known(ImageItem):
    """An image whose content is known beforehand."""

    def content_digest(self) -> bytes:
        return self.path.name.encode()


def site_of(owners: list[int], contents: list[str]) -> Site:
    card = TaskCard(name="t", classes=[ClassCard(name="a")])
    images = [
        Known(Path(content), 0, f"patient {owner}")
        for owner, content in zip(owners, contents, strict=True)
    ]
    return Site("north", Path(), card, images, Path(), has_subjects=True)


def test_of_each_patient_so_many(site: Site) -> None:
    for cap, number in ((1, 3), (2, 5), (3, 6), (9, 6)):
        chosen = counted_images(site, cap)
        assert len(chosen) == counted_number(site, cap) == number
        assert max(Counter(item.subject for item in chosen).values()) <= cap
    for item in counted_images(site, 1):
        same = [other.content_digest() for other in site.images if other.subject == item.subject]
        assert item.content_digest() == min(same)


def test_without_subjects_each_image_is_its_own(tmp_path: Path) -> None:
    site = read_site(write_classes(tmp_path / "north", {"a": 3, "b": 2}))
    assert cap_of(site, 7) == 1
    assert counted(site, 1) == [0, 1, 2, 3, 4]
    assert counted_number(site, 1) == 5


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=12),
    st.integers(1, 3),
    st.data(),
)
def test_another_patients_images_change_no_choice(
    owners: list[int], cap: int, data: st.DataObject
) -> None:
    names = st.lists(
        st.text("abcdef", min_size=1, max_size=4),
        min_size=len(owners),
        max_size=len(owners),
        unique=True,
    )
    contents, others, target = (
        data.draw(names),
        data.draw(names),
        data.draw(st.sampled_from(owners)),
    )
    swapped = [
        f"z{o}" if p == target else c for p, c, o in zip(owners, contents, others, strict=True)
    ]
    one, two = site_of(owners, contents), site_of(owners, swapped)
    first, second = set(counted(one, cap)), set(counted(two, cap))
    theirs = {index for index, owner in enumerate(owners) if owner == target}
    assert first - theirs == second - theirs
    assert len(first) == len(second) == counted_number(one, cap)
    assert len(first & theirs) == len(second & theirs) <= cap
    order = data.draw(st.permutations(range(len(owners))))
    moved = replace(one, images=[one.images[i] for i in order])
    chosen = {item.path for item in counted_images(moved, cap)}
    assert chosen == {item.path for item in counted_images(one, cap)}


def test_the_digest_is_of_what_is_counted(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    digest, all_of_them = counted_digest(site, 1), counted_digest(site, 9)
    assert len({digest, all_of_them}) == 2
    with monkeypatch.context() as patch:
        patch.setattr(ImageItem, "content_digest", lambda _item: pytest.fail("read again"))
        patch.setattr("fl_client.contribution.counted", lambda *_a: pytest.fail("chosen again"))
        (site.state / MEMO).read_bytes()
        assert counted_digest(read_site(site.folder), 9) == all_of_them
    assert counted_digest(site, 1) == digest
    table = site.folder / "labels.csv"
    renamed = table.read_text().replace("p2-0.png", "q.png").replace(",p3", ",another")
    shutil.move(site.folder / "p2-0.png", site.folder / "q.png")
    table.write_text(renamed)
    assert counted_digest(read_site(site.folder), 1) == digest, "names and order do not matter"
    table.write_text(renamed.replace(",p2", ",p1"))
    assert counted_digest(read_site(site.folder), 1) != digest, "whose they are does"


def test_an_image_that_is_not_counted_changes_nothing(site: Site) -> None:
    digest = counted_digest(site, 1)
    spare = next(i for i in range(len(site.images)) if i not in counted(site, 1))
    site.images[spare].path.unlink()
    rows = [row for row in ROWS if row.split(",")[0] != site.images[spare].path.name]
    (site.folder / "labels.csv").write_text("\n".join(["path,label,subject_id", *rows]) + "\n")
    assert counted_digest(read_site(site.folder), 1) == digest

"""Sizes of images that a backbone hardly sees anything in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fl_client.finding import Finding, ok, warning

TINY = 16
"""Shorter side in pixels below which an image is mostly interpolation."""

HUGE = 4096
"""Longer side in pixels above which nearly all detail is lost when an image is made small."""

LONG = 4.0
"""Longer by shorter side above which a centre crop leaves most of the image out."""


def odd_sizes(images: Iterable[tuple[str, tuple[int, int]]]) -> Iterator[Finding]:
    """Look for extreme sizes.

    Parameters
    ----------
    images : iterable of (str, (int, int))
        Name, and height and width in pixels.
    """
    sizes = dict[str, tuple[int, int]](images)
    if not sizes:
        return
    odd = {
        f"smaller than {TINY} pixels": [n for n, s in sizes.items() if min(s) < TINY],
        f"larger than {HUGE} pixels": [n for n, s in sizes.items() if max(s) > HUGE],
        f"more than {LONG:g} times as long as wide": [
            n for n, s in sizes.items() if max(s) > LONG * min(s)
        ],
    }
    found = [
        f"{len(names)} are {what}: {names[0]} ({sizes[names[0]][1]} x {sizes[names[0]][0]})"
        for what, names in odd.items()
        if names
    ]
    if found:
        mend = "see whether they belong here, crop them, or cut slides into tiles"
        yield warning("sizes", "; ".join(found), mend, "extreme-size")
        return
    least, most = min(sizes.values()), max(sizes.values())
    span = f"{least[1]} x {least[0]}" + ("" if least == most else f" to {most[1]} x {most[0]}")
    yield ok("sizes", f"{span} pixels")

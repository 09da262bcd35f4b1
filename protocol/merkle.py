"""The Merkle tree of RFC 9162 (Certificate Transparency 2.0), section 2.1, over SHA-256.

Leaves are byte strings. The functions compute from the leaves; the two ``verify_`` functions need
nothing but the proof, so that anyone can check them offline.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def leaf_hash(entry: bytes) -> bytes:
    """Return ``HASH(0x00 || entry)``."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return ``HASH(0x01 || left || right)``."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """The tree over some leaf hashes, for as many proofs as one likes.

    Every hash of a complete subtree is computed once; a proof then takes as many steps as the
    tree is deep, however long the log.

    Parameters
    ----------
    leaves : sequence of bytes
        Leaf hashes, in order.
    """

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self._size = len(leaves)
        self._levels = [list(leaves)]  # level h: hashes of complete subtrees of 2^h leaves
        while len(below := self._levels[-1]) > 1:
            pairs = zip(below[::2], below[1::2], strict=False)
            self._levels.append([node_hash(left, right) for left, right in pairs])

    @property
    def root(self) -> bytes:
        """Tree head (section 2.1.1)."""
        return self._hash(0, self._size) if self._size else hashlib.sha256(b"").digest()

    def inclusion(self, index: int) -> list[bytes]:
        """Return the audit path of leaf `index` (section 2.1.3.1)."""
        if not 0 <= index < self._size:
            raise IndexError(f"no leaf {index} in a tree of {self._size}")
        start, end, path = 0, self._size, []
        while end - start > 1:
            middle = start + _split(end - start)
            if index < middle:
                path.append(self._hash(middle, end))
                end = middle
            else:
                path.append(self._hash(start, middle))
                start = middle
        return path[::-1]

    def consistency(self, old: int) -> list[bytes]:
        """Return the proof that the first `old` leaves are a prefix (section 2.1.4.1)."""
        if not 0 < old <= self._size:
            raise IndexError(f"no tree of {old} within a tree of {self._size}")
        start, end, path = 0, self._size, []
        while old < end:
            middle = start + _split(end - start)
            if old <= middle:
                path.append(self._hash(middle, end))
                end = middle
            else:
                path.append(self._hash(start, middle))
                start = middle
        if start:  # else the old tree is this subtree, whose root the other side has
            path.append(self._hash(start, end))
        return path[::-1]

    def _hash(self, start: int, end: int) -> bytes:
        """Return the root of leaves `start` to `end`; `start` is a multiple of its left half."""
        size = end - start
        if size & (size - 1) == 0:
            return self._levels[size.bit_length() - 1][start // size]
        middle = start + _split(size)
        return node_hash(self._hash(start, middle), self._hash(middle, end))


def root_hash(leaves: Sequence[bytes]) -> bytes:
    """Return the tree head of leaf hashes; see `Tree`."""
    return Tree(leaves).root


def inclusion_proof(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    """Return the audit path of leaf `index`; see `Tree`."""
    return Tree(leaves).inclusion(index)


def verify_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> bool:
    """Check that a leaf hash is number `index` of the tree of `size` (section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    fn, sn, result = index, size - 1, leaf
    for sibling in proof:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            result = node_hash(sibling, result)
            while not fn & 1 and fn != 0:
                fn, sn = fn >> 1, sn >> 1
        else:
            result = node_hash(result, sibling)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and result == root


def consistency_proof(old: int, leaves: Sequence[bytes]) -> list[bytes]:
    """Return the proof that the first `old` leaves are a prefix of the tree; see `Tree`."""
    return Tree(leaves).consistency(old)


def verify_consistency(
    old: int, new: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes
) -> bool:
    """Check that the tree of size `new` extends the tree of size `old` (section 2.1.4.2)."""
    if not 0 < old <= new:
        return False
    if old == new:
        return not proof and old_root == new_root
    path = list(proof)
    if old & (old - 1) == 0:  # a complete subtree: its root is not in the proof
        path.insert(0, old_root)
    if not path:
        return False
    fn, sn = old - 1, new - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    first = second = path[0]
    for sibling in path[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
            while not fn & 1 and fn != 0:
                fn, sn = fn >> 1, sn >> 1
        else:
            second = node_hash(second, sibling)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and first == old_root and second == new_root


def _split(n: int) -> int:
    """Return the largest power of two smaller than n."""
    return 1 << ((n - 1).bit_length() - 1)

"""The integer hashes that everything random is keyed by: sample ids, orders, seeds. Tests freeze them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_MASK = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15
_MANY = 1 << 18  # hashes that may be held beyond those that are wanted


def splitmix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hashes each element (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014).



    Args:
        values: uint64, any shape.

    Returns:
        uint64 of the same shape; a bijection of the 64-bit integers.
    """
    z = values + np.uint64(_STEP)
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def mix_hashes(*parts: int) -> int:
    """Hashes a sequence of integers (taken modulo 2**64) to one in `[0, 2**64)`; their order matters."""
    state = 0
    for part in parts:
        z = ((state ^ (part & _MASK)) + _STEP) & _MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        state = z ^ (z >> 31)
    return state


def hash_key(key: str) -> int:
    """The 64-bit hash of a sample's key (BLAKE2b); as int64 it is the sample id."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def permute(n: int, seed: int) -> NDArray[np.int64]:
    """A permutation of `range(n)`, the same on every machine and with every version of numpy.

    It is the stable argsort of hashes whose low bits are cut off. The index takes their place, so that one
    sort of distinct integers does it: faster than an argsort, and the same for every sorting algorithm.

    """
    bits = np.uint64(max(1, n.bit_length()))
    index = np.arange(n, dtype=np.uint64)
    keys = splitmix64(index ^ np.uint64(mix_hashes(seed)))
    keys >>= bits
    keys <<= bits
    keys |= index
    keys.sort()
    keys &= np.uint64((1 << int(bits)) - 1)
    return keys.view(np.int64)


def find_smallest(count: int, blocks: Iterable[NDArray[np.uint64]]) -> NDArray[np.int64]:
    """The places of the `count` smallest of many hashes, and of those that equal the largest of these.

    Memory grows with `count` and the largest block, not with the number of hashes.

    Args:
        count: how many; of fewer hashes all are taken.
        blocks: the hashes, uint64, in pieces.

    Returns:
        Their places among all hashes, ascending.
    """
    hashes, places, done = [np.empty(0, np.uint64)], [np.empty(0, np.int64)], 0
    bound = np.uint64(_MASK)  # those above are not among the smallest, whatever follows

    def held() -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """What may still be among them."""
        nonlocal bound
        found, where = np.concatenate(hashes), np.concatenate(places)
        if len(found) > count:
            bound = np.partition(found, count - 1)[count - 1]
            near = found <= bound
            found, where = found[near], where[near]
        return found, where

    for block in blocks:
        near = np.flatnonzero(block <= bound)
        hashes.append(block[near])
        places.append(near + done)
        done += len(block)
        if sum(map(len, hashes)) > 2 * count + _MANY:
            found, where = held()
            hashes, places = [found], [where]
    return held()[1]

"""Files damaged at random: their bytes, or the values of JSON."""

from __future__ import annotations

import json
import random
import struct
from typing import Any


def mutate(data: bytes, rnd: random.Random) -> bytes:
    """Bits, bytes, lengths and offsets changed, cut, repeated."""
    b = bytearray(data)
    for _ in range(rnd.choice((1, 1, 1, 2, 3, 5, 20))):
        if not b:
            break
        kind, i = rnd.randrange(8), rnd.randrange(min(len(b), rnd.choice((64, 512, 1 << 20))))
        if kind == 0:
            b[i] ^= 1 << rnd.randrange(8)
        elif kind == 1:
            b[i] = rnd.choice((0, 255, 0x7F, 0x80, rnd.randrange(256)))
        elif kind == 2:
            del b[i : i + rnd.choice((1, 2, 4, 16, 100))]
        elif kind == 3:
            b[i:i] = rnd.randbytes(rnd.choice((1, 2, 4, 16)))
        elif kind == 4:
            b = b[:i]
        elif kind == 5:
            number = rnd.choice((0, 1, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 65535, 1 << 20))
            b[i : i + 4] = struct.pack(rnd.choice("<>") + "I", number)
        elif kind == 6:
            b[i : i + 8] = struct.pack("<Q", rnd.choice((0, 1, (1 << 64) - 1, 1 << 63, 1 << 40, 1 << 32)))
        else:
            j = rnd.randrange(len(b))
            b[i : i + 8] = b[j : j + 8]
    return bytes(b)


VALUES: list[Any] = [
    *(None, -1, 0, 1e400, float("nan"), "x", "", "../../etc", [], {}, 10**30, 10**9, True, [1], {"a": 1}, "uint8"),
    *(-5, 1.5, ["a"] * 3, "\0", "é", 2**63, "12", [1, 2], -3),
]


def mutate_json(content: Any, rnd: random.Random) -> bytes:
    """Values exchanged or removed, at any depth."""
    content = json.loads(json.dumps(content))
    for _ in range(rnd.choice((1, 1, 2, 3))):
        here = content
        while isinstance(here, dict | list) and here:
            key = rnd.choice(list(here)) if isinstance(here, dict) else rnd.randrange(len(here))
            if rnd.random() < 0.35 or not isinstance(here[key], dict | list):
                if rnd.random() < 0.15:
                    del here[key]
                else:
                    here[key] = json.loads(json.dumps(rnd.choice(VALUES)))
                break
            here = here[key]
    return json.dumps(content).encode()


def either(data: bytes, rnd: random.Random) -> bytes:
    """A JSON file damaged by its values, or by its bytes."""
    return mutate_json(json.loads(data), rnd) if rnd.random() < 0.7 else mutate(data, rnd)

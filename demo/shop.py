"""Users and products of an invented shop, the same in every run."""

from __future__ import annotations

import random
from typing import Any

USERS = 3000
PRODUCTS = 2000

_FIRST = ("Ada", "Alan", "Barbara", "Dorothy", "Edsger", "Frances", "Grace", "Hedy", "Joan", "Katherine", "Radia")
_LAST = ("Allen", "Clarke", "Dijkstra", "Hamilton", "Hopper", "Keller", "Lamarr", "Liskov", "Lovelace", "Perlman")
_KIND = ("Lamp", "Desk", "Chair", "Shelf", "Mug", "Kettle", "Clock", "Rug", "Stool", "Vase", "Mirror", "Pillow")
_LOOK = ("oak", "brass", "linen", "slate", "cork", "amber", "walnut", "copper", "marble", "felt")


def users(seed: int = 1) -> list[dict[str, Any]]:
    """Make users whose names have a version."""
    rng = random.Random(seed)
    return [
        {"_id": number, "name": f"{rng.choice(_FIRST)} {rng.choice(_LAST)}", "version": 1}
        for number in range(1, USERS + 1)
    ]


def products(seed: int = 2) -> list[dict[str, Any]]:
    """Make products. A model number makes each name unique."""
    rng = random.Random(seed)
    return [
        {
            "_id": number,
            "name": f"{rng.choice(_KIND)} {rng.choice(_LOOK)} {number:04d}",
            "price": round(rng.uniform(5, 500), 2),
            "version": 1,
        }
        for number in range(1, PRODUCTS + 1)
    ]

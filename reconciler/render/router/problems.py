"""What a router cannot do with a map."""

from __future__ import annotations

from reconciler.model.errors import ReconcilerError


class RouterCannot(ReconcilerError):
    """A routing map cannot be said in a router's language.

    Shardwright owns keys by ranges of PostgreSQL's 64-bit hash (seed 0). A router that has another
    hash, or only a modulus, would send keys to shards that refuse them; so nothing is written
    rather than something that is nearly right.
    """

    code = "RT010"

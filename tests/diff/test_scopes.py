"""Which scope a wanted shard has: names change, scopes stay."""

from __future__ import annotations

from dataclasses import replace
from string import ascii_lowercase

from hypothesis import given
from hypothesis import strategies as st

from reconciler.diff.scopes import assign_scopes
from reconciler.model.names import Scope, ShardName
from reconciler.model.routing import RoutingMap
from tests.worlds import database, desired, routing_of, settled, shard, tiles

MAP = routing_of(settled(desired(database())))


def scopes(*wanted: tuple[str, str | None], routing: RoutingMap | None = MAP) -> dict[str, str]:
    """The scope of each wanted shard, given as (name, former name)."""
    shards = tuple(
        shard(name, tile.keys, moved_from=former)
        for (name, former), tile in zip(wanted, tiles(len(wanted)), strict=True)
    )
    found = assign_scopes(database(*shards), routing)
    return {name: key.scope for name, key in found.items()}


def test_a_first_scope_is_the_database_and_the_shard() -> None:
    assert scopes(("s0", None), ("s1", None), routing=None) == {"s0": "shop-s0", "s1": "shop-s1"}


def test_a_renamed_shard_keeps_its_scope() -> None:
    assert scopes(("north", "s0"), ("s1", None)) == {"north": "shop-s0", "s1": "shop-s1"}


def test_names_that_are_both_known_stay_with_their_scopes_whatever_is_said_of_the_past() -> None:
    """The spec refuses to swap two names; if it did not, no shard would get the other's data."""
    assert scopes(("s1", "s0"), ("s0", "s1")) == {"s1": "shop-s1", "s0": "shop-s0"}


def test_a_former_name_that_was_renamed_already_is_not_followed_twice() -> None:
    renamed = database(shard("north", "-80"), shard("s1", "80-"))
    routing = routing_of(settled(desired(renamed)))
    wanted = (("north", "s0"), ("s1", None))

    assert scopes(*wanted, routing=routing) == {"north": "shop-north", "s1": "shop-s1"}


def test_a_new_shard_under_the_old_name_of_a_renamed_one_gets_a_scope_with_a_letter() -> None:
    renamed = scopes(("north", "s0"), ("s1", None))
    owners = tuple(replace(o, shard=n) for o, n in zip(MAP.owners, renamed, strict=True))  # type: ignore[arg-type]
    routing = replace(MAP, owners=owners)
    wanted = (("north", None), ("s1", None), ("s0", None))

    assert scopes(*wanted, routing=routing) == {
        "north": "shop-s0", "s1": "shop-s1", "s0": "shop-s0a",
    }  # fmt: skip


def test_the_letters_go_on_when_their_scopes_are_taken() -> None:
    taken = [f"shop-s9{end}" for end in ("", *ascii_lowercase)]
    owners = tuple(
        replace(MAP.owners[0], shard=ShardName(f"old{i}"), scope=Scope(scope))
        for i, scope in enumerate(taken)
    )

    found = scopes(("s9", None), routing=replace(MAP, owners=owners))

    assert found == {"s9": "shop-s9aa"}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c", "d", "s0", "s1"]), st.sampled_from([None, "s0", "s1"])
        ),
        min_size=1,
        max_size=5,
        unique_by=lambda pair: pair[0],
    )
)
def test_no_two_shards_of_a_spec_that_was_let_in_share_a_scope(
    wanted: list[tuple[str, str | None]],
) -> None:
    claims = [former for _, former in wanted if former]
    if len({*claims}) < len(claims) or {*claims} & {name for name, _ in wanted}:
        return  # the spec's own checks refuse these
    found = scopes(*wanted)

    assert len({*found.values()}) == len(found)
    assert found == scopes(*wanted)


def test_an_interrupted_provisioning_finds_its_own_scope_again() -> None:
    wanted = (("north", "s0"), ("s1", None), ("s2", None))

    assert scopes(*wanted)["s2"] == scopes(*wanted)["s2"] == "shop-s2"

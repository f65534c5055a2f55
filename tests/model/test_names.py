"""Names, and the values that say who is who."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.model.desired import Place, Revision
from reconciler.model.names import (
    DatabaseKey,
    DatabaseName,
    Namespace,
    Scope,
    ScopeKey,
    app_role,
    member_name,
    member_ordinal,
    owner_role,
)
from reconciler.model.observed import ObservedMember, Role
from reconciler.model.platform import (
    BASE_PARAMETERS,
    SYNCED_SLOTS,
    Credential,
    Endpoint,
    effective_parameters,
)
from tests.worlds import database as database_of
from tests.worlds import desired, settled


@given(st.from_regex(r"[a-z]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True), st.integers(0, 999))
def test_a_member_is_named_after_its_scope_and_ordinal(scope: str, ordinal: int) -> None:
    name = member_name(Scope(scope), ordinal)

    assert name == f"{scope}-{ordinal}"
    assert member_ordinal(name) == ordinal


def test_the_default_namespace_is_not_spoken_of() -> None:
    shop = DatabaseName("shop")

    assert str(DatabaseKey(Namespace("default"), shop)) == "shop"
    assert str(DatabaseKey(Namespace("team"), shop)) == "team/shop"
    assert str(ScopeKey(Namespace("default"), Scope("shop-s0"))) == "shop-s0"
    assert str(ScopeKey(Namespace("team"), Scope("shop-s0"))) == "team/shop-s0"


def test_the_owner_and_the_application_are_two_roles() -> None:
    assert owner_role(DatabaseName("shop")) == "shop_owner"
    assert app_role(DatabaseName("shop")) == "shop_app"


def test_a_password_is_never_shown() -> None:
    assert "secret" not in repr(Credential("shop_app", "secret"))


def test_what_the_spec_says_stands_over_the_base_parameters() -> None:
    assert effective_parameters((), "16") == BASE_PARAMETERS
    assert effective_parameters((), "17") == tuple(sorted((*BASE_PARAMETERS, *SYNCED_SLOTS)))
    assert tuple(sorted(BASE_PARAMETERS)) == BASE_PARAMETERS
    found = dict(effective_parameters((("max_connections", "7"), ("work_mem", "1MB")), "15"))
    assert found == dict(BASE_PARAMETERS) | {"max_connections": "7", "work_mem": "1MB"}


def test_a_revision_is_its_content_under_any_name() -> None:
    one, other = Revision("main@sha1:4f2a9c1b1d"), Revision("v1@sha1:4f2a9c1b1d")

    assert one.content == other.content == "sha1:4f2a9c1b1d"
    assert one.short == "main@sha1:4f2a9c1"
    assert str(Revision("files@sha256:abc", True)) == "files@sha256:abc with uncommitted changes"


def test_a_place_knows_the_places_inside_it() -> None:
    assert Place("a.yaml").at("spec", "shards").at(0) == Place("a.yaml", 0, ("spec", "shards", 0))


@pytest.mark.parametrize(
    ("role", "state", "healthy"),
    [
        (Role.PRIMARY, "running", True),
        (Role.PRIMARY, "streaming", False),
        (Role.PRIMARY, "starting", False),
        (Role.STANDBY, "streaming", True),
        (Role.STANDBY, "running", True),
        (Role.STANDBY, "starting", False),
        (Role.STANDBY, "stopped", False),
    ],
)
def test_a_member_is_healthy_when_it_serves(role: Role, state: str, healthy: bool) -> None:
    member = ObservedMember(member_name(Scope("shop-s0"), 0), Endpoint("h", 1, 2), role, state)

    assert member.healthy is healthy


def test_the_routing_map_knows_the_owner_of_each_position() -> None:
    seen = settled(desired(database_of())).databases[0]
    routing = seen.routing

    assert routing is not None
    assert not isinstance(routing, type(None))
    owners = [routing.owner_of(p) for p in (0, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)]  # type: ignore[union-attr]
    assert [owner and owner.shard for owner in owners] == ["s0", "s0", "s1", "s1"]

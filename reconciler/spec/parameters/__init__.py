"""What PostgreSQL parameters exist in each major version, and which values they take.

``15.json``, ``16.json`` and ``18.json`` are ``pg_settings`` of real servers (``catalogue.sql``). No
server 17 was at hand: its catalogue is made of 16 and 18 together, with every name of either, the
wider bounds and the stricter context. A parameter that only 18 knows is therefore found out by the
server, not here.
"""

from __future__ import annotations

from functools import cache
from pkgutil import get_data

import msgspec

VERSIONS = ("15", "16", "17", "18")
"""Major versions that Shardwright runs."""


class Parameter(msgspec.Struct, frozen=True):
    """One row of ``pg_settings``. ``unit`` is what a bare number counts: ``8kB``, ``ms``"""

    context: str
    type: str
    unit: str = ""
    min: str = ""
    max: str = ""
    values: tuple[str, ...] = ()


Catalogue = dict[str, Parameter]


@cache
def catalogue(version: str) -> Catalogue:
    """Return every parameter of a major version by name. Raises KeyError for an unknown version."""
    if version not in VERSIONS:
        raise KeyError(version)
    if version == "17":
        return _united(catalogue("16"), catalogue("18"))
    data = get_data(__name__, f"{version}.json")
    assert data is not None  # noqa: S101  the package's own data
    return msgspec.json.decode(data, type=Catalogue)


@cache
def _folded(version: str) -> dict[str, str]:
    return {name.lower(): name for name in catalogue(version)}


def canonical_name(version: str, name: str) -> str | None:
    """Return a parameter's name as the server writes it; names are not case-sensitive."""
    return _folded(version).get(name.lower())


def parameter_needs_restart(version: str, name: str) -> bool:
    """Tell whether a change of the parameter takes effect only with a restart of the server.

    Parameters of extensions (``pg_stat_statements.max``) are not known here and count as False; the
    server itself says later which changes are pending a restart.
    """
    canonical = canonical_name(version, name)
    return canonical is not None and catalogue(version)[canonical].context == "postmaster"


def _united(older: Catalogue, newer: Catalogue) -> Catalogue:
    both = older | newer
    for name in older.keys() & newer.keys():
        both[name] = _wider(older[name], newer[name])
    return both


def _wider(a: Parameter, b: Parameter) -> Parameter:
    return Parameter(
        context="postmaster" if "postmaster" in (a.context, b.context) else b.context,
        type=b.type,
        unit=b.unit,
        min=min(a.min, b.min, key=_number),
        max=max(a.max, b.max, key=_number),
        values=tuple(dict.fromkeys((*a.values, *b.values))),
    )


def _number(text: str) -> float:
    return float(text) if text else 0.0

"""Check the parameters of a spec: known, settable, ours to set, and within their bounds."""

from __future__ import annotations

import re
from math import isfinite

from reconciler.model.errors import ReconcilerError
from reconciler.model.platform import BASE_PARAMETERS
from reconciler.spec.parameters import Parameter, canonical_name, catalogue
from reconciler.spec.problems import did_you_mean, quoted


class UnknownParameter(ReconcilerError):
    """A PostgreSQL parameter of that name does not exist in that version.

    Parameters differ between major versions. Those of extensions, written with a dot as in
    pg_stat_statements.max, are not checked here.
    """

    code = "SP113"


class ParameterValue(ReconcilerError):
    """A PostgreSQL parameter cannot have that value.

    Bounds and units are those of pg_settings of a server of that version. Every member would refuse
    the value when it reloads, or worse, when it starts.
    """

    code = "SP114"


class ParameterOwned(ReconcilerError):
    """A PostgreSQL parameter is set by Shardwright or by Patroni.

    They need it for running members, replication or resharding; a second opinion about it in a spec
    would be overwritten or would break them.
    """

    code = "SP115"


class RiskyParameter(ReconcilerError):
    """A PostgreSQL parameter is set so that a crash can lose or damage data.

    It is taken as written: there are test systems where that is wanted.
    """

    code = "SP202"


_OWNERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "Patroni owns it": (
        "names members and connects them",
        (
            "cluster_name",
            "listen_addresses",
            "port",
            "primary_conninfo",
            "primary_slot_name",
            "hot_standby",
            "wal_log_hints",
            "synchronous_standby_names",
            "synchronized_standby_slots",
            "restore_command",
            "recovery_end_command",
            "archive_cleanup_command",
            "recovery_min_apply_delay",
            "promote_trigger_file",
            "data_directory",
            "config_file",
            "hba_file",
            "ident_file",
            "external_pid_file",
            "unix_socket_directories",
            "unix_socket_group",
            "unix_socket_permissions",
            "restart_after_crash",
        ),
    ),
    "Shardwright owns it": (
        "sets it for backups, encryption and passwords",
        (
            "archive_mode",
            "archive_command",
            "archive_library",
            "password_encryption",
            "default_transaction_read_only",
            "transaction_read_only",
            "transaction_isolation",
            "transaction_deferrable",
            "session_replication_role",
            "bonjour",
            "bonjour_name",
        ),
    ),
}
_OWNED = {name: owner for owner, (_, names) in _OWNERS.items() for name in names}
_OWNED_PREFIXES = {"ssl": "Shardwright owns it", "recovery_target": "Patroni owns it"}
_FLOORS = {
    name: int(value)
    for name, value in BASE_PARAMETERS
    if name
    in (
        "max_logical_replication_workers",
        "max_replication_slots",
        "max_wal_senders",
        "max_worker_processes",
    )
}
"""What moving key ranges needs, so that no move waits for a restart."""
_BUILD_DEPENDENT = frozenset(
    ("wal_compression", "default_toast_compression", "io_method", "log_destination",
     "dynamic_shared_memory_type", "shared_memory_type", "wal_sync_method")
)  # fmt: skip
"""Enumerations whose values depend on how a server was built; the server decides."""
_HIDDEN_VALUES = {"debug"}
"""Accepted by the servers for message levels, though pg_settings does not list it."""
_RISKY = {"fsync": "off", "full_page_writes": "off", "zero_damaged_pages": "on",
          "ignore_checksum_failure": "on", "ignore_invalid_pages": "on"}  # fmt: skip
_BOOLEANS = {
    **dict.fromkeys(("on", "true", "yes", "1", "t", "y", "tr", "tru", "ye"), "on"),
    **dict.fromkeys(("off", "false", "no", "0", "f", "n", "of", "fa", "fal", "fals"), "off"),
}
_EXTENSION = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)+")
_QUANTITY = re.compile(
    r"\s*([-+]?(?:0x[0-9a-fA-F]{1,16}|[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?|[0-9]+\.))\s*([A-Za-z]*)\s*"
)
_BYTES = {"B": 1, "kB": 1024, "MB": 1024**2, "GB": 1024**3, "TB": 1024**4}
_MICROSECONDS = {
    "us": 1,
    "ms": 1000,
    "s": 10**6,
    "min": 6 * 10**7,
    "h": 36 * 10**8,
    "d": 864 * 10**8,
}
_TEXT_MAX = 8192


def check_parameter(
    version: str, name: str, value: str | int | float | bool
) -> tuple[str, str] | ReconcilerError:
    """Return the parameter's canonical name and text, or what is wrong with it.

    Booleans become ``on`` and ``off``; other values keep the text that was written.
    """
    if "." in name:
        if _EXTENSION.fullmatch(name):
            return name, _text(value)
        return _unknown(version, name)
    canonical = canonical_name(version, name)
    if canonical is None:
        owner = _owner(name.lower())
        return _owned(name, owner) if owner else _unknown(version, name)
    if owner := _owner(canonical):
        return _owned(canonical, owner)
    parameter = catalogue(version)[canonical]
    if parameter.context == "internal":
        return ParameterOwned(f"parameter {canonical}", "it is read-only", remedy="remove it")
    text = _text(value)
    problem = _value_problem(canonical, parameter, text)
    if problem is not None:
        return problem
    return canonical, _BOOLEANS[text.lower()] if parameter.type == "bool" else text


def risk_of(name: str, text: str) -> ReconcilerError | None:
    """Return a warning when a value endangers the data."""
    if _RISKY.get(name) != text:
        return None
    problem = f"{text} means that a crash can damage or lose data"
    return RiskyParameter(f"parameter {name}", problem)


def _text(value: str | int | float | bool) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value).strip()


def _owner(name: str) -> str:
    for prefix, owner in _OWNED_PREFIXES.items():
        if name.startswith(prefix):
            return owner
    return _OWNED.get(name, "")


def _owned(name: str, owner: str) -> ReconcilerError:
    return ParameterOwned(
        f"parameter {name}", f"{owner}; it cannot be set here", remedy="remove it"
    )


def _unknown(version: str, name: str) -> ReconcilerError:
    problem = f"PostgreSQL {version} has no such parameter"
    remedy = did_you_mean(name, list(catalogue(version)))
    return UnknownParameter(f"parameter {name}", problem, remedy=remedy)


def _value_problem(name: str, parameter: Parameter, text: str) -> ReconcilerError | None:
    problem, remedy = _judge(name, parameter, text)
    return ParameterValue(f"parameter {name}", problem, remedy=remedy) if problem else None


def _judge(name: str, parameter: Parameter, text: str) -> tuple[str, str]:
    if len(text) > _TEXT_MAX or any(ord(c) < 32 for c in text):
        return f"its value must be one line of at most {_TEXT_MAX} characters", ""
    match parameter.type:
        case "bool":
            return _judge_bool(text)
        case "enum":
            return _judge_enum(name, parameter, text)
        case "integer" | "real":
            return _judge_number(name, parameter, text)
        case _:
            return "", ""


def _judge_bool(text: str) -> tuple[str, str]:
    return ("", "") if text.lower() in _BOOLEANS else (f"{quoted(text)} is not on or off", "")


def _judge_enum(name: str, parameter: Parameter, text: str) -> tuple[str, str]:
    folded = text.lower()
    if name == "wal_level" and folded != "logical":
        return "Shardwright needs logical: key ranges move by logical replication", "remove it"
    known = {value.lower() for value in parameter.values} | _HIDDEN_VALUES
    if folded in known or name in _BUILD_DEPENDENT or ("on" in known and folded in _BOOLEANS):
        return "", ""
    listed = ", ".join(parameter.values)
    return f"{quoted(text)} is not one of {listed}", did_you_mean(text, list(parameter.values))


def _judge_number(name: str, parameter: Parameter, text: str) -> tuple[str, str]:
    match = _QUANTITY.fullmatch(text)
    if match is None:
        return f"{quoted(text)} is not a number{_unit_hint(parameter)}", ""
    number = float(int(match[1], 16)) if "0x" in match[1].lower() else float(match[1])
    if match[2]:
        factor = _factor(match[2], parameter.unit)
        if factor is None:
            return f"{quoted(text)} has a unit it does not take", _units_taken(parameter.unit)
        number *= factor
    if parameter.type == "integer" and isfinite(number):
        number = round(number)
    if not float(parameter.min) <= number <= float(parameter.max):
        low, high = _shown(parameter.min, parameter), _shown(parameter.max, parameter)
        return f"{text} is out of bounds: it must be {low} to {high}", ""
    if name in _FLOORS and number < _FLOORS[name]:
        return f"{text} is too low: moving key ranges needs {_FLOORS[name]}", "remove it"
    return "", ""


def _unit_hint(parameter: Parameter) -> str:
    return (
        f" (with or without a unit; bare numbers are in {parameter.unit})" if parameter.unit else ""
    )


def _units_taken(unit: str) -> str:
    if _base(unit, _BYTES):
        return f"units are {', '.join(_BYTES)}"
    return f"units are {', '.join(_MICROSECONDS)}" if unit else "write a bare number"


def _base(unit: str, table: dict[str, int]) -> int:
    """How much one count of a unit of pg_settings is: 8kB is 8192 bytes; 0 when of another kind."""
    digits = unit[: len(unit) - len(unit.lstrip("0123456789"))]
    size = table.get(unit[len(digits) :], 0)
    return size * int(digits or 1)


def _factor(written: str, unit: str) -> float | None:
    for table in (_BYTES, _MICROSECONDS):
        base = _base(unit, table)
        if base and written in table:
            return table[written] / base
    return None


def _shown(bound: str, parameter: Parameter) -> str:
    """``64kB``, ``30s``; a unit with a number in it (8kB pages) is spelt out."""
    if not parameter.unit or bound in ("0", "-1"):
        return bound
    return f"{bound} × {parameter.unit}" if parameter.unit[0].isdigit() else bound + parameter.unit

"""What the router answers by itself: its own settings, and transactions before their first shard.

BEGIN names no shard. It is answered here and kept, and goes to the shard of the transaction's first
statement just before that statement; so does what belongs to the transaction's beginning.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from reconciler.router import wire
from reconciler.router.routes import Wishes
from reconciler.router.statements import Kind, Setting, Statement
from reconciler.router.wire import Refusal

PREFIX = "shardwright."
DEFERRED_MAX = 100
"""Statements kept before a transaction has its shard."""
SETTINGS_MAX = 200
_READ = ("primary", "standby")
_SCATTER = ("off", "on", "raw")
_TRUE = frozenset(("on", "true", "yes", "1", "t", "y"))


@dataclass(slots=True)
class SessionState:
    """What a client has set, apart from what its shards know.

    ``deferred``: the beginning of a transaction that has no shard yet; None outside one.
    ``settings``: SET statements by the setting's name, to be repeated on each shard it comes to;
    ``version`` grows with each change of them.
    """

    wishes: Wishes = field(default_factory=Wishes)
    read: str = "primary"
    read_only: bool = False
    status: bytes = b"I"
    deferred: list[str] | None = None
    settings: dict[str, str] = field(default_factory=dict)
    version: int = 0
    uncommitted: dict[str, Statement] = field(default_factory=dict)

    @property
    def standby(self) -> bool:
        """Whether statements go to standbys."""
        return self.read == "standby" or self.read_only

    def note(self, statement: Statement) -> None:
        """Remember a SET that a shard has taken."""
        setting = statement.setting
        if setting is None or setting.local or setting.name in ("transaction",):
            return
        self.version += 1
        if setting.name in ("default_transaction_read_only", "session characteristics"):
            self.read_only = "read_only" in setting.name and (setting.value or "").lower() in _TRUE
        self.settings.pop(setting.name, None)
        if setting.value is None and setting.name != "session characteristics":
            return
        if len(self.settings) >= SETTINGS_MAX:
            raise Refusal("54000", f"more than {SETTINGS_MAX} settings of one session")
        self.settings[setting.name] = statement.text

    def preset(self, name: str, value: str) -> None:
        """Take a setting of the start-up message. Raises Refusal."""
        setting = Setting(name.lower(), value, local=False)
        if name.lower().startswith(PREFIX):
            self.own(setting)
            return
        if not name.replace("_", "").replace(".", "").isalnum():
            raise Refusal("42704", f"no such setting: {name}")
        quoted = value.replace("\\", "\\\\").replace("'", "''")
        prefix = "E" if "\\" in value else ""
        self.note(Statement(Kind.SET, f"SET {name} = {prefix}'{quoted}'", setting=setting))

    def forget(self) -> None:
        """DISCARD ALL."""
        self.wishes, self.read, self.read_only = Wishes(), "primary", False
        self.settings.clear()
        self.version += 1

    def own(self, setting: Setting) -> None:
        """Set one of the router's own settings. Raises Refusal."""
        name = setting.name.removeprefix(PREFIX)
        value = (setting.value or "").strip()
        if name == "key":
            self.wishes = replace(self.wishes, key=value)
        elif name == "shard":
            self.wishes = replace(self.wishes, shard=value)
        elif name == "scatter":
            self.wishes = replace(self.wishes, scatter=_choice(name, value or "off", _SCATTER))
        elif name == "read":
            self.read = _choice(name, value or "primary", _READ)
        else:
            raise Refusal(
                "42704", f"the router has no setting {setting.name}",
                "it has shardwright.key, .shard, .scatter and .read",
            )  # fmt: skip

    def show(self, name: str) -> str | None:
        """Return the value of one of the router's own settings."""
        return {
            "shardwright.key": self.wishes.key,
            "shardwright.shard": self.wishes.shard,
            "shardwright.scatter": self.wishes.scatter,
            "shardwright.read": self.read,
        }.get(name.lower())


def _choice(name: str, value: str, allowed: tuple[str, ...]) -> str:
    value = value.lower()
    if name == "scatter" and value in _TRUE | {"false", "no", "0"}:
        value = "on" if value in _TRUE else "off"
    if value not in allowed:
        raise Refusal("22023", f"shardwright.{name} cannot be {value!r}", f"one of {allowed}")
    return value


@dataclass(frozen=True, slots=True)
class Answer:
    """The router's own answer: columns with values for SHOW, and the tag."""

    tag: str
    names: tuple[str, ...] = ()
    values: tuple[str, ...] = ()

    def whole(self) -> bytes:
        """Return it as a simple query's answer, without ReadyForQuery."""
        if self.names:
            return wire.one_row(self.names, self.values, self.tag)
        return wire.command_complete(self.tag)

    def description(self) -> bytes:
        """Return RowDescription or NoData."""
        if not self.names:
            return wire.frame(b"n")
        whole = self.whole()
        return whole[: wire.read_int(whole, 1) + 1]

    def rows(self) -> bytes:
        """Return what Execute gives."""
        whole = self.whole()
        return whole[wire.read_int(whole, 1) + 1 :] if self.names else whole


def own_answer(state: SessionState, statement: Statement, pinned: bool) -> Answer | None:
    """Answer a statement here, or return None: it is for a shard. Raises Refusal."""
    kind, setting = statement.kind, statement.setting
    if kind is Kind.LISTEN:
        raise Refusal(
            "0A000", "LISTEN and NOTIFY do not work through the router",
            "connect to one shard: shardwright connect",
        )  # fmt: skip
    if kind is Kind.SET and setting is not None and setting.name.startswith(PREFIX):
        state.own(setting)
        return Answer("SET" if setting.value is not None else "RESET")
    if kind is Kind.SHOW and (value := state.show(statement.name)) is not None:
        return Answer("SHOW", (statement.name.lower(),), (value,))
    if pinned:
        return None
    return _unpinned(state, statement)


def _unpinned(state: SessionState, statement: Statement) -> Answer | None:
    kind = statement.kind
    if kind is Kind.BEGIN:
        if state.status == b"I":
            state.deferred, state.status = [statement.text], b"T"
        return Answer("START TRANSACTION" if "start" in statement.text.lower()[:20] else "BEGIN")
    if kind in (Kind.COMMIT, Kind.ROLLBACK):
        failed = state.status == b"E"
        state.deferred, state.status = None, b"I"
        return Answer("ROLLBACK" if failed or kind is Kind.ROLLBACK else "COMMIT")
    if state.status == b"E":
        raise Refusal(
            "25P02",
            "current transaction is aborted, commands ignored until end of transaction block",
        )
    if state.deferred is None:
        return None
    setting = statement.setting
    of_transaction = setting is not None and (setting.local or setting.name == "transaction")
    if kind is Kind.SAVEPOINT or of_transaction:
        if len(state.deferred) >= DEFERRED_MAX:
            raise Refusal("54000", f"{DEFERRED_MAX} statements before the first of a shard")
        state.deferred.append(statement.text)
        if kind is Kind.SAVEPOINT:
            return Answer(statement.text.split()[0].upper())
        return Answer("SET")
    return None

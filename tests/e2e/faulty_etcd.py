"""The etcd of a home, for tests that break it: of a small quota, or one of three members."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from reconciler.edges.etcd_gateway import base64_text, prefix_end
from reconciler.edges.local import etcd_server, etcd_users, lifecycle, tls
from reconciler.edges.local.etcd_users import EtcdUser
from reconciler.edges.local.home import HomeRecord, open_home, read_record
from reconciler.model.etcd_login import AUTHENTICATE
from tests.edges.servers import free_port
from tests.local_home import fresh_home, wait_for

Options = Callable[[list[str]], list[str]]
_ROOTS = ("/v3/kv/", "/v3/maintenance/defragment")
"""What takes a login; a member that is cut off from the others can still be asked for the rest."""


@contextlib.contextmanager
def home_whose_etcd(options: Options) -> Iterator[Path]:
    """Give a home that runs, whose etcd was started with its usual options changed so."""
    real = etcd_server.command
    with pytest.MonkeyPatch.context() as patch, fresh_home() as root:
        patch.setattr(etcd_server, "command", lambda *arguments: options(real(*arguments)))
        lifecycle.up(root)
        yield root


def set_options(command: list[str], **values: str) -> list[str]:
    """Return a command line with options of it replaced, or added."""
    given = {f"--{name.replace('_', '-')}": value for name, value in values.items()}
    kept = [word for word in command if word.partition("=")[0] not in given]
    return [*kept, *(f"{name}={value}" for name, value in given.items())]


@dataclass
class EtcdMember:
    """One member of a home's etcd, as an administrator reaches it."""

    root: Path
    port: int

    @staticmethod
    def of(root: Path) -> EtcdMember:
        """Return the home's own."""
        record = read_record(open_home(root).record, HomeRecord)
        assert record is not None
        return EtcdMember(root, record.etcd_client_port)

    @property
    def address(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Call etcd's gateway. Fails for an answer that is none."""
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self.port, timeout=30, context=tls.client_context(open_home(self.root))
        )
        with contextlib.closing(connection):
            headers = {"Authorization": self.token()} if path.startswith(_ROOTS) else {}
            connection.request("POST", path, json.dumps(body or {}), headers)
            with connection.getresponse() as answer:
                text = answer.read()
            assert answer.status == 200, text
        found: dict[str, Any] = json.loads(text)
        return found

    def token(self) -> str:
        """Log in as root, who may do everything."""
        password = etcd_users.credential(open_home(self.root), EtcdUser.ROOT).password
        return str(self.ask(AUTHENTICATE, {"name": "root", "password": password})["token"])

    def put(self, key: str, value: bytes) -> int:
        """Write a key; return the revision."""
        body = {"key": base64_text(key), "value": base64_text(value)}
        return int(self.ask("/v3/kv/put", body)["header"]["revision"])

    def fill(self) -> None:
        """Write until etcd takes no more."""
        with contextlib.suppress(AssertionError):
            for number in range(1000):
                self.put(f"/shardwright/fill/{number}", b"x" * 500_000)
            pytest.fail("etcd took it all")
        assert self.alarms(), "etcd refused, and says no alarm"

    def alarms(self) -> list[dict[str, Any]]:
        """Return the alarms that stand."""
        return list(self.ask("/v3/maintenance/alarm", {"action": "GET"}).get("alarms", ()))

    def make_room(self) -> None:
        """Do what the remedy of ET104 says."""
        end = base64_text(prefix_end(b"/shardwright/fill/"))
        body = {"key": base64_text("/shardwright/fill/"), "range_end": end}
        revision = self.ask("/v3/kv/deleterange", body)["header"]["revision"]
        self.compact(int(revision))
        self.ask("/v3/maintenance/defragment")
        for alarm in self.alarms():
            self.ask("/v3/maintenance/alarm", {**alarm, "action": "DEACTIVATE"})

    def compact(self, revision: int) -> None:
        """Forget all history before a revision."""
        self.ask("/v3/kv/compaction", {"revision": str(revision), "physical": True})

    def leads(self) -> bool:
        """Whether this member leads now. Fails when it does not answer."""
        status = self.ask("/v3/maintenance/status")
        return bool(status.get("leader")) and status["leader"] == status["header"]["member_id"]


@dataclass
class ThreeMembers:
    """A home's own etcd and two beside it, as one cluster; the two are this one's processes."""

    folder: Path
    members: list[EtcdMember] = field(default_factory=list)
    beside: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def options(self, command: list[str]) -> list[str]:
        """Start the two, and return the command line of the third: the home's own."""
        given = dict(word[2:].split("=", 1) for word in command[1:] if "=" in word)
        ports = [(free_port(), free_port()) for _ in range(2)]
        peers = [f"e{n}=https://127.0.0.1:{peer}" for n, (_, peer) in enumerate(ports)]
        everyone = ",".join([given["initial-cluster"], *peers])
        command = set_options(command, initial_cluster=everyone)
        for number, (client, peer) in enumerate(ports):
            at, between = f"https://127.0.0.1:{client}", f"https://127.0.0.1:{peer}"
            own = set_options(
                command, name=f"e{number}", data_dir=str(self.folder / f"e{number}"),
                listen_client_urls=at, advertise_client_urls=at, listen_peer_urls=between,
                initial_advertise_peer_urls=between,
            )  # fmt: skip
            with (self.folder / f"e{number}.log").open("ab") as log:
                self.beside.append(subprocess.Popen(own, stdout=log, stderr=log, cwd=self.folder))
        self.ports = [client for client, _ in ports]
        return command

    def know(self, root: Path) -> None:
        """The home is there: its own member is the first."""
        self.members = [EtcdMember.of(root), *(EtcdMember(root, port) for port in self.ports)]

    @property
    def addresses(self) -> str:
        return ",".join(member.address for member in self.members)

    def process(self, number: int) -> psutil.Process:
        """Return the process of a member."""
        if number:
            return psutil.Process(self.beside[number - 1].pid)
        own = etcd_server.running(open_home(self.members[0].root))
        assert own is not None
        return psutil.Process(own.pid)

    def leader(self, among: tuple[int, ...] = (0, 1, 2)) -> int:
        """Return the number of the member that leads, once one does."""

        def look() -> list[int] | None:
            return [number for number in among if self.members[number].leads()] or None

        return wait_for(look, "a member leads")[0]

    @contextlib.contextmanager
    def stopped(self, *numbers: int) -> Iterator[None]:
        """Stop these members as a hung machine does: their connections stay open."""
        processes = [self.process(number) for number in numbers]
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in processes:
                process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        for process in self.beside:
            process.kill()
            process.wait()


@contextlib.contextmanager
def home_of_three(folder: Path) -> Iterator[ThreeMembers]:
    """Give a home that runs on an etcd of three members."""
    three = ThreeMembers(folder)
    try:
        with home_whose_etcd(three.options) as root:
            three.know(root)
            yield three
    finally:
        three.end()

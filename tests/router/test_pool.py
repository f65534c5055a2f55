"""How long sessions at a shard are kept without a client; the loop's clock is the test's."""

from __future__ import annotations

import asyncio
from pathlib import Path

from reconciler.router.authority import Authority
from reconciler.router.pool import Access, Pool, PoolLimits
from reconciler.router.routes import Routes
from reconciler.router.wire import Refusal
from tests.edges.servers import make_certificates
from tests.sdk.scene import Scene


def pool_of(scene: Scene, limits: PoolLimits, authority: Authority | None = None) -> Pool:
    routes = Routes()
    routes.replace(scene.map)
    authority = authority or Authority(scene.tls.ca)
    access = Access(scene.map.database.name, lambda _: scene.shards[0].app, authority)
    return Pool(scene.map.owners[0].scope, False, access, routes, limits)


async def lent_and_back(pool: Pool, count: int) -> None:
    idle = pool.idle
    backends = [await pool.take() for _ in range(count)]
    for backend in backends:
        pool.give_back(backend)
    async with asyncio.timeout(60):
        while pool.idle < max(idle, count):
            await asyncio.sleep(0.01)


def turn_clock(seconds: float) -> None:
    """Let a loop's time pass at once."""
    loop = asyncio.get_running_loop()
    before = loop.time
    loop.time = lambda: before() + seconds  # type: ignore[method-assign]


async def after(seconds: float) -> None:
    turn_clock(seconds)
    await asyncio.sleep(0.01)


def test_a_session_is_closed_when_it_was_idle_for_long_and_only_then(scene: Scene) -> None:
    async def story() -> list[int]:
        pool = pool_of(scene, PoolLimits(idle_max=0, idle_s=60))
        await lent_and_back(pool, 1)
        await after(50)
        await lent_and_back(pool, 1)
        seen = []
        for seconds in (20, 30, 20):  # the first is the end of its earlier stay
            await after(seconds)
            seen.append(pool.idle)
        pool.close()
        return seen

    assert asyncio.run(story()) == [1, 1, 0]


def test_so_many_are_kept_for_ever_and_closed_ones_make_room(scene: Scene) -> None:
    async def story() -> list[int]:
        pool = pool_of(scene, PoolLimits(backends_max=5, idle_max=2, idle_s=60))
        await lent_and_back(pool, 5)
        seen = [pool.idle]
        for _ in range(2):
            await after(70)
            seen.append(pool.idle)
        await lent_and_back(pool, 5)
        seen.append(pool.idle)
        pool.close()
        return seen

    assert asyncio.run(story()) == [5, 2, 2, 5]


def test_a_rotated_authority_is_in_force_at_the_next_session(scene: Scene, tmp_path: Path) -> None:
    assert scene.shards[0].primary.postgres_tls
    file = tmp_path / "ca.pem"
    file.write_bytes(Path(scene.tls.ca).read_bytes())
    ours, strange = file.read_text(), Path(make_certificates(tmp_path / "strange").ca).read_text()
    authority = Authority(str(file))

    async def opens() -> bool:
        pool = pool_of(scene, PoolLimits(find_s=0.1), authority)
        try:
            await pool.take()
        except Refusal as refusal:
            return "certificate verify failed" not in refusal.text
        finally:
            pool.close()
        return True

    file.write_text(strange)
    assert not asyncio.run(opens()), "who signed before is believed no more"
    for unreadable in ("", "-----BEGIN CERTIFICATE-----\nhalf", None):
        file.write_text(ours)
        assert asyncio.run(opens())
        file.unlink() if unreadable is None else file.write_text(unreadable)
        assert asyncio.run(opens()), "what cannot be read changes nothing"

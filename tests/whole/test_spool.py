"""A proxy that is killed while the store is away: what it had spooled is counted once, the rest is said to be lost."""

from __future__ import annotations

from pathlib import Path

from servers import until
from whole.load import command, counted, reading, services, settings, settled, under_load

from shadowproxy.pairs import EmbeddedServer


async def test_a_proxy_killed_while_the_store_is_away_is_followed_by_one_that_delivers(
    own_valkey: EmbeddedServer, tmp_path: Path
) -> None:
    place = tmp_path / "spool"
    async with services() as (_, first, candidate, second):
        chosen = settings(
            tmp_path,
            first,
            second,
            recorder=f'{{batch: 5, linger: 50ms, max_bytes: 40KiB, spool: {{dir: "{place}"}}}}',
            redis=f'{{url: "{own_valkey.url}"}}',
        )
        with command(tmp_path, chosen, "proxy") as killed:
            await killed.ready("proxy_admin")
            own_valkey.stop()
            async with under_load(killed.proxy) as load:
                await until(lambda: sum(path.stat().st_size for path in place.glob("*/*/*.seg")) > 20_000)
                killed.process.kill()
        assert candidate.seen.keys() >= set(load.answered)
        with command(tmp_path, chosen, "proxy") as heir:
            # The store is still away. A first start would be refused; this one follows a proxy that was killed.
            await heir.ready("proxy_admin")
            async with under_load(heir.proxy) as after:
                after.numbers = iter(range(10_000, 20_000))
                await until(lambda: len(after.answered) >= 40)
            assert not after.broken
            # Whether people have paused mirroring nobody can know until the store is back.
            assert not candidate.seen.keys() & set(after.answered)
            own_valkey.start()
            await until(lambda: len(list(place.glob("*/*"))) == 1, "the end of the dead proxy's account")
            heir.process.terminate()
            assert await heir.ended(within=15) == 0
        assert list(place.rglob("*")) == []
        with command(tmp_path, chosen, "compare") as comparator:
            await comparator.ready("comparator_admin")
            async with reading(chosen) as read:
                verdict = await settled(read, lambda found: found.pairs >= found.accounting.recorded)
        found = counted(verdict)
        account = verdict.accounting
        assert set(found.values()) == {1}
        assert account.balanced
        assert len(found) == account.recorded == verdict.pairs
        assert found.keys() <= candidate.seen.keys()
        assert account.dropped.keys() == {"proxy_crashed"}
        assert account.skipped.keys() == {"paused"}
        assert account.skipped["paused"] >= len(after.answered)
        assert account.recorded > 10

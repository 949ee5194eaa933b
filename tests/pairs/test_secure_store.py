"""TLS and users: certificates of one's own on both sides, and an ACL that allows what is needed and nothing else."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cluster import Server, cluster, ended_after, free_ports, watched
from programs import program
from proxy.secure import Authority
from servers import unique

from shadowproxy.errors import StartError, StoreUnavailable
from shadowproxy.model import Accounting
from shadowproxy.pairs import scripts
from shadowproxy.pairs.client import CLUSTER_COMMANDS, COMMANDS
from shadowproxy.pairs.controls import ControlChange
from shadowproxy.pairs.partitions import Partitions
from shadowproxy.pairs.store import list_experiments

PAGE = (Path(__file__).parent.parent.parent / "docs" / "stores.md").read_text()
GIVEN = "p@ss/w:rd"
ENCODED = "p%40ss%2Fw%3Ard"


def rule() -> list[str]:
    """The command of the page, as a user would enter it."""
    found = re.search(r"ACL SETUSER .*?\n```", PAGE, re.DOTALL)
    assert found is not None
    words = shlex.split(found[0].removesuffix("```").replace("\\\n", " "))
    return [word.replace("PASSWORD", GIVEN) for word in words]


async def use_everything(url: str, partitions: int = 2) -> None:
    """Every command that there is, on the way of a pair and beside it."""
    name = unique("acl")
    async with Partitions.at(url, name, partitions=partitions, max_entries=3 * partitions, keep=0) as opened:
        await opened.prepare()
        home = opened.home
        await home.experiment(b"{}")
        for sequence in range(1, 30):
            await opened.append("p", sequence, b"x" * 100, 1, Accounting(sequence, sequence, sequence))
        await opened.publish("p", Accounting(30, 30, 29))
        await opened.standing("p")
        for one in opened.stores:
            entries = await one.read("a", 1, 0.01)
            await one.own_pending("a", 10)
            await one.claim("b", 0.0, 10)
            await one.load_state("b")
            await one.commit("b", [entries[0].id], b"state", dead={entries[0].id: "why"})
            await one.load_state("c")
            await one.absorb("c", b"merged", await one.silent("c", 0.0, 10))
            await one.watermark()
        await home.slots(["one"], 10)
        await home.latch(b"latched")
        await opened.snapshot()
        for look in (home.browse("0", 1), home.newest(1), home.follow("0", 1, 0.01)):
            assert await look
        assert await home.dead_letters(1)
        await home.change_controls(ControlChange(paused=True))
        controls = await home.read_controls()
        assert controls is not None
        await home.restore_controls(controls)
        await home.report_controls("proxy", 1)
        await home.control_status()
        await home.forget_proxy("proxy")
    assert name in await list_experiments(url)


@contextmanager
def secured(folder: Path) -> Iterator[tuple[Server, Authority, dict[str, str], int]]:
    """A server that speaks TLS alone, and only to whom its authority knows; and a plain port to give it orders."""
    authority = Authority(folder)
    own = authority.issue("server")
    plain, port = free_ports(2)
    options = {
        "tls-port": str(port),
        "tls-cert-file": own["certificate"],
        "tls-key-file": own["key"],
        "tls-ca-cert-file": authority.file,
        "tls-auth-clients": "yes",
    }
    words = itertools.chain.from_iterable((f"--{name}", value) for name, value in options.items())
    with ended_after() as servers:
        servers.append(Server(folder / "data", plain, *words, program=program("redis-server")))
        yield servers[0], authority, authority.issue("client"), port


async def test_tls_with_certificates_on_both_sides_and_a_user_that_may_do_no_more_than_needed(tmp_path: Path) -> None:
    with secured(tmp_path) as (server, authority, client, port):
        assert server.ask(*rule()) == b"OK"
        place = f"rediss://shadowproxy:{ENCODED}@localhost:{port}/0"
        certificate = f"&ssl_certfile={client['certificate']}&ssl_keyfile={client['key']}"
        good = f"{place}?ssl_ca_certs={authority.file}{certificate}"
        await use_everything(good)
        (tmp_path / "stranger").mkdir()
        stranger = Authority(tmp_path / "stranger")
        for wrong, told in {
            f"{place}?ssl_ca_certs={stranger.file}{certificate}": "certificate verify failed.*ssl_ca_certs",
            f"{place}?ssl_ca_certs={authority.file}": "redis.url",
            good.replace(ENCODED, "SECRET"): "check the user and the password",
            good.replace("rediss", "redis").partition("?")[0]: "redis.url",
        }.items():
            async with Partitions.at(wrong, "e", max_entries=1, reply_within=2.0) as refused:
                with pytest.raises(StoreUnavailable, match=f"(?is){told}") as raised:
                    await refused.prepare()
            assert GIVEN not in str(raised.value)
            assert "SECRET" not in str(raised.value)
        with pytest.raises(StartError, match=r"ssl_keyfile .* can't be read"):
            Partitions.at(good.replace("client.key", "nowhere.key"), "e", max_entries=1)


def test_the_user_of_the_page_may_do_what_the_code_does_and_nothing_else() -> None:
    allowed = {word.removeprefix("+") for word in rule() if word.startswith("+")}
    assert allowed == set(COMMANDS)
    for command in CLUSTER_COMMANDS:
        assert f"+{command}" in PAGE
    room = Path(scripts.__file__).parent.parent
    sources = "".join(path.read_text() for path in room.rglob("*.py"))
    used = re.findall(r"redis\.p?call\('([A-Z]+)'", sources)
    used += re.findall(
        r'(?:command\(|command: list\[Any\] = \[|command = \[|return await self\.command\()"([A-Z]+)"', sources
    )
    used += re.findall(r"call\('([A-Z]+)', stream", sources)
    assert {name.lower() for name in used} - {*CLUSTER_COMMANDS} == allowed


async def test_a_user_that_may_do_less_is_told_what_to_do(tmp_path: Path) -> None:
    with ended_after() as servers:
        servers.append(Server(tmp_path / "data", free_ports(1)[0]))
        servers[0].ask(*rule(), "-xadd")
        url = f"redis://shadowproxy:{ENCODED}@127.0.0.1:{servers[0].port}"
        async with Partitions.at(url, "e", max_entries=1) as opened:
            await opened.prepare()
            with pytest.raises(StoreUnavailable, match=r"xadd.*docs/stores\.md"):
                await opened.append("p", 1, b"x", 1, Accounting(1, 1, 1))


async def test_the_same_user_in_a_cluster(tmp_path: Path) -> None:
    with cluster() as servers:
        for node in servers.nodes:
            node.ask(*rule(), *(f"+{command}" for command in CLUSTER_COMMANDS))
            node.ask("ACL", "SETUSER", "default", "resetkeys", "~other:*")
        await use_everything(servers.url.replace("://", f"://shadowproxy:{ENCODED}@"), partitions=6)


async def test_a_user_for_sentinel_and_another_for_the_master() -> None:
    with watched() as service:
        service.master.ask(*rule())
        service.replica.ask(*rule())
        granted = re.search(r"`(\+sentinel[^`]*)`", PAGE)
        assert granted is not None
        service.sentinel.ask("ACL", "SETUSER", "looker", "on", f">{GIVEN}", "-@all", *granted[1].split())
        service.sentinel.ask("ACL", "SETUSER", "default", "-@all", "+ping")
        url = service.url.replace("://", f"://shadowproxy:{ENCODED}@")
        await use_everything(f"{url}?sentinel_username=looker&sentinel_password={ENCODED}")
        async with Partitions.at(url, "e", max_entries=1) as refused:
            with pytest.raises(StoreUnavailable, match="permission"):
                await refused.prepare()

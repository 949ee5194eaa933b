"""The proxy as it is run, up to what stands in the store: nothing that was to stay inside is there."""

from __future__ import annotations

import asyncio
import gzip
import json

from proxy.harness import answering, ask, post, upstream
from servers import unique

from shadowproxy.config import Address, experiment_id, loads
from shadowproxy.pairs import EmbeddedServer, Store, codec
from shadowproxy.processes import run_proxy

SECRET = "s3cr3t-4711-value"  # noqa: S105
OURS = "ours-0123456789-4711"


async def test_no_secret_reaches_the_store(valkey: EmbeddedServer) -> None:
    packed = gzip.compress(json.dumps({"items": [{"id": 1, "owner": SECRET}]}).encode())
    head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nSet-Cookie: {}\r\n"
    raw = head.format(SECRET).encode() + b"Content-Length: %d\r\n\r\n" % len(packed) + packed
    async with upstream(answering(raw)) as one:
        settings = loads(
            json.dumps(
                {
                    "experiment": unique("redaction"),
                    "baseline": one.url,
                    "candidate": {"url": one.url, "credentials": {"authorization": "Bearer ${OURS}"}},
                    "proxy": {
                        "listen": "127.0.0.1:0",
                        "admin": "127.0.0.1:0",
                        "redact": {
                            "json_fields": {"user.email": "hash", "items[*].owner": "drop"},
                            "headers": {"x-account": "hash"},
                            "key": "${OURS}",
                        },
                    },
                    "redis": {"url": valkey.url},
                }
            ),
            environ={"OURS": OURS},
        )
        stop = asyncio.Event()
        urls: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        running = asyncio.ensure_future(run_proxy(settings, stop, lambda told: urls.set_result(told["proxy"])))
        try:
            async with asyncio.timeout(20):
                host, _, port = (await urls).removeprefix("http://").rpartition(":")
                body = json.dumps({"user": {"email": SECRET}}).encode()
                request = post(body, f"/?token={SECRET}", f"Authorization: {SECRET}", f"X-Account: {SECRET}")
                assert (await ask(Address(host, int(port)), request)).body == packed
        finally:
            stop.set()
            await running
        assert {value for got in one.requests for value in got.get(b"authorization")} == {
            SECRET.encode(),
            f"Bearer {OURS}".encode(),
        }
        async with await Store.open(valkey.url, experiment_id(settings), max_entries=100) as store:
            (entry,) = await store.read("reader", 10, 0)
        (found,) = codec.decode(entry.payload)
        plain = codec.encode([found], 0)
        assert SECRET.encode() not in plain
        assert OURS.encode() not in plain
        assert found.baseline.body == found.candidate.body == b'{"items":[{"id":1}]}'
        assert b"X-Account: hash:" in found.request.head

"""The API's client: for the command line and the demo, which ask a running API over HTTP like everybody else."""

from __future__ import annotations

import aiohttp
import msgspec

from shadowproxy.errors import ApiUnavailable
from shadowproxy.verdict.record import Verdict


async def fetch_verdict(url: str, *, patience: float = 10.0) -> Verdict:
    """The current verdict of the API at `url` (its root).

    Raises ApiUnavailable where it doesn't answer within `patience` seconds, has no verdict to give, or isn't this API.
    """
    where = f"{url.rstrip('/')}/api/v1/verdict"
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(patience)) as session,
            session.get(where) as response,
        ):
            body = await response.read()
            status = response.status
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise ApiUnavailable(
            f"{where} does not answer ({str(error) or type(error).__name__}); "
            "is `shadowproxy serve` or `run` running, and is --url right?"
        ) from None
    if status != 200:
        raise ApiUnavailable(f"{where} answers {status}: {body[:300].decode('utf-8', 'replace')}")
    try:
        return msgspec.json.decode(body, type=Verdict)
    except msgspec.MsgspecError as error:
        raise ApiUnavailable(f"{where} does not answer with a verdict ({error}); is --url right?") from None

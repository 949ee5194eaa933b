"""`shadowproxy run`: the parts as processes of their own, started, watched and stopped in the order of the data.

They are processes and not tasks of one loop, since comparing is arithmetic that would hold up a client's answer. A part
that dies is started again; on the way out the proxy drains first, so that the comparator still counts its last pairs
and the API still shows them.
"""

from __future__ import annotations

from pathlib import Path

from shadowproxy.children import MARGIN, Children, Role
from shadowproxy.config import Settings, worker_count

PARTS = ("proxy", "compare", "serve")


class Supervisor(Children):
    """Runs the parts of one configuration file (`settings` is what it says) against the store at `redis_url`.

    They answer at the `urls` `proxy`, `proxy_admin`, `comparator_admin` and `api`. To stop takes as long as the parts
    need one after the other: at worst three times the longer of `proxy.grace` and `comparator.grace` and 5 s, and where
    the proxy has several workers 5 s more.
    """

    def __init__(self, config: Path, settings: Settings, redis_url: str, *, ready_within: float = 30.0) -> None:
        # The parts keep their grace themselves; what is added is for their last words to the store.
        grace = max(settings.proxy.grace, settings.comparator.grace) + MARGIN
        # A proxy of several workers is a parent that gives them the same margin before it kills: it must outlive that.
        graces = {"proxy": grace + MARGIN if worker_count(settings) > 1 else grace}
        stages = [
            [
                Role(
                    name=name,
                    arguments=(name, "--config", str(config), "--supervised"),
                    grace=graces.get(name, grace),
                )
            ]
            for name in PARTS
        ]
        super().__init__(stages, {"SHADOWPROXY_REDIS_URL": redis_url}, ready_within=ready_within)

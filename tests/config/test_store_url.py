"""redis.url: its parts, and what is said of one that can't be used."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowproxy.config.store_url import ServerAddress, parse_store_url

NAMES = st.text(min_size=1, max_size=12)
HOSTS = st.one_of(
    st.builds(ServerAddress, st.from_regex(r"[a-z][a-z0-9.-]{0,8}", fullmatch=True), st.integers(1, 65535)),
    st.builds(ServerAddress, st.ip_addresses(v=6).map(str), st.integers(1, 65535)),
)


def written(hosts: list[ServerAddress]) -> str:
    return ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in hosts)


@given(st.lists(HOSTS, min_size=1, max_size=4), NAMES, NAMES, NAMES, NAMES, st.integers(0, 15))
def test_what_is_encoded_is_read_back(
    hosts: list[ServerAddress], user: str, password: str, service: str, other: str, db: int
) -> None:
    user, password, service, other = (
        text.encode("utf-8", "replace").decode() for text in (user, password, service, other)
    )
    credentials = f"{quote(user, safe='')}:{quote(password, safe='')}"
    found = parse_store_url(f"rediss+cluster://{credentials}@{written(hosts)}?ssl_ca_certs=ca.pem&socket_timeout=9")
    assert (found.kind, found.tls, found.hosts) == ("cluster", True, tuple(hosts))
    assert (found.username, found.password) == (user, password)
    assert found.options == (("ssl_ca_certs", "ca.pem"),)
    found = parse_store_url(
        f"redis+sentinel://{credentials}@{written(hosts)}/{quote(service, safe='')}/{db}"
        f"?sentinel_password={quote(other, safe='')}&client_name=me"
    )
    assert (found.kind, found.tls, found.hosts) == ("sentinel", False, tuple(hosts))
    assert (found.username, found.password, found.service, found.db) == (user, password, service, db)
    assert (found.sentinel_username, found.sentinel_password) == (None, other)
    assert found.options == (("client_name", "me"),)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("mysql://h", r"redis\+cluster://"),
        ("redis://", r"redis://\[user"),
        ("redis://:SECRET@a:1,b:2", r"several hosts.*redis\+cluster"),
        ("redis://:SECRET@a:0", "percent-encode"),
        ("redis://:SECRET@a:1?pasword=SECRET", "isn't known"),
        ("redis://:SEC?RET@a:1", "percent-encode"),
        ("redis://a?ssl_ca_certs=x", "rediss://"),
        ("rediss://a?ssl_cert_reqs=maybe", "none, optional or required"),
        ("redis://a?db=first", "a number"),
        ("unix://", "write"),
        ("redis+cluster://:SECRET@a:1/3", "no databases"),
        ("redis+cluster://:SEC/RET@a:1", "percent-encode|no databases"),
        ("redis+cluster://:SEC@RET@a:1", "percent-encode"),
        ("redis+cluster://:SECRET@a:1,,b:2", "host:port"),
        ("redis+cluster://:SECRET@a:port", "host:port"),
        ("redis+cluster://:SECRET@a:70000", "host:port"),
        ("redis+cluster://:SECRET@::1", "in brackets"),
        ("redis+cluster://a?sentinel_password=SECRET", r"redis\+sentinel:// only"),
        ("redis+sentinel://:SECRET@a,b", "name of the service"),
        ("redis+sentinel://:SECRET@a,b/models/first", "name of the service"),
        ("redis+cluster://:SEC RET@a:1", "a space"),
        ("redis+cluster://:SEC#RET@a:1", "%23"),
    ],
)
def test_what_is_wrong_is_said_without_a_password(url: str, told: str) -> None:
    with pytest.raises(ValueError, match=told) as raised:
        parse_store_url(url)
    assert not any(part in str(raised.value) for part in ("SECRET", "SEC", "RET@"))

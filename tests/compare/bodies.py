"""Bodies that are JSON, nearly JSON or no JSON at all, for tests that read one body in two ways."""

from __future__ import annotations

from hypothesis import strategies as st

ODD = (
    *(b"1e400", b"-1e400", b"0.1e309", b"9" * 310, b"-" + b"9" * 310, b"1e-400", b"1e308", b"1E+5", b"-0", b"-0.0"),
    *(b"1.0", b"9007199254740993", b"9007199254740993.0", b"9223372036854775808", b"18446744073709551615"),
    *(b"18446744073709551616", b"-9223372036854775809", b"1.7976931348623159e308", b"01", b"1.", b".5", b"-", b"+1"),
    *(b"01e400", b"1.e400", b"1e400x", b"1e", b"0x10", b"1_0", b"NaN", b"-Infinity", b"Infinity", b"tru", b"nul"),
    *(b'"\xff"', b'"\xed\xa0\x80"', b'"\\ud800"', b'"\\udc00a"', b'"\\ud83d\\ude00"', b'"\\ud800\\u0041"', b'"\x01"'),
    *(b'"\\x"', b'"\\u12"', b'"\\u0000"', b'"\xc3\xa9"', b'"\\/"', b'"1e400"', b'"\\"1e400"', b'"open', b"", b"[1,]"),
    *(b'{"a":1,}', b"[1 2]", b'{"a"}', b"[1e400,2]", b'{"id":1e400}', b"[" * 1100 + b"]" * 1100, b"[" * 1100),
    *(b"[" * 500 + b"]" * 500, b'{"a":' * 1100 + b"1" + b"}" * 1100),
)
KEYS = ("items", "", "class", "it-s", "id", "score", "a", "b", "ids", "groups", "other", "it\\u0065ms", "\\ud800", "é")

scalars = st.sampled_from([b"1", b"2", b'"1"', b'"a"', b"0.5", b"null", b"true", b"false", b"-1.5", b"[]", b"{}", *ODD])
sane = st.sampled_from([b"1", b"2", b'"1"', b'"a"', b"0.5", b"null", b"true", b"-1.5", b"1.0", b"[]", b"{}"])


def text(leaves: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """JSON as it is written: keys may come twice."""
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4).map(lambda parts: b"[" + b", ".join(parts) + b"]")
            | st.lists(st.tuples(st.sampled_from(KEYS), inner), max_size=4).map(
                lambda parts: b"{" + b",".join(b'"%s": %s' % (key.encode(), value) for key, value in parts) + b"}"
            )
        ),
        max_leaves=10,
    )


def item(leaves: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.tuples(leaves, leaves, leaves).map(lambda found: b'{"id": %s, "score": %s, "other": %s}' % found)


def listed(leaves: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """What most bodies look like, with odd values in it."""
    rows = st.lists(item(leaves) | sane, max_size=4).map(b",".join)
    return st.tuples(st.sampled_from([b"items", b"ids", b"groups", b"other"]), rows, text(leaves)).map(
        lambda found: b'{"%s": [%s], "a": %s}' % found
    )


mostly = st.one_of(sane, sane, sane, scalars)
bodies = st.builds(
    lambda body, before, after, cut: (before + body + after)[: cut if cut is not None else None],
    st.one_of(text(sane), text(mostly), listed(sane), listed(mostly), st.binary(max_size=20)),
    st.sampled_from([b"", b"", b"", b" \r\n\t", b"\xef\xbb\xbf", b"\x0c"]),
    st.sampled_from([b"", b"", b"", b" \n", b"x", b"\x00", b"{}"]),
    st.none() | st.none() | st.integers(-3, 30),
)

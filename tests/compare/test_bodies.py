from __future__ import annotations

import gzip
import tracemalloc
import zlib

import brotli
import pytest
import zstandard

from shadowproxy.compare.extraction.bodies import BodyError, decode

JSON = b'{"ids": [1, 2], "name": "\xc3\xa9"}'
VALUE = {"ids": [1, 2], "name": "é"}


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(data) + stream.flush()


def zstd_of_unknown_size(data: bytes) -> bytes:
    stream = zstandard.ZstdCompressor().compressobj()
    return stream.compress(data) + stream.flush()


def head(coding: str) -> bytes:
    return f"Content-Type: application/json\r\ncontent-ENCODING: {coding}\r\n".encode()


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("identity", JSON),
        ("", JSON),
        ("gzip", gzip.compress(JSON)),
        ("X-GZIP", gzip.compress(JSON)),
        ("gzip", gzip.compress(JSON[:5]) + gzip.compress(JSON[5:])),
        ("deflate", zlib.compress(JSON)),
        ("deflate", raw_deflate(JSON)),
        ("zstd", zstandard.compress(JSON)),
        ("zstd", zstd_of_unknown_size(JSON)),
        ("zstd", zstandard.compress(JSON[:5]) + zstandard.compress(JSON[5:])),
        ("br", brotli.compress(JSON)),
        ("gzip, br", brotli.compress(gzip.compress(JSON))),
        ("deflate, gzip", gzip.compress(zlib.compress(JSON))),
        ("identity", b"\xef\xbb\xbf" + JSON),
    ],
)
def test_what_can_be_read(coding: str, body: bytes) -> None:
    assert decode(head(coding), body) == VALUE


def test_codings_over_several_header_lines_apply_in_order() -> None:
    assert decode(head("deflate") + head("gzip"), gzip.compress(zlib.compress(JSON))) == VALUE


@pytest.mark.parametrize(
    ("coding", "body", "kind"),
    [
        ("", b"", "bad_body"),
        ("", b"[NaN]", "bad_body"),
        ("", b"[Infinity]", "bad_body"),
        ("", b"[01e999]", "bad_body"),
        ("", b"[1e999, NaN]", "bad_body"),
        ("", b"{1e999: 1}", "bad_body"),
        ("", b'["\xff"]', "bad_body"),
        ("", b"[" * 2000 + b"]" * 2000, "bad_body"),
        ("", b"[1] [2]", "bad_body"),
        ("", b"<html>", "bad_body"),
        ("", gzip.compress(JSON), "bad_body"),
        ("gzip", b"", "bad_encoding"),
        ("gzip", JSON, "bad_encoding"),
        ("gzip", gzip.compress(JSON)[:-3], "bad_encoding"),
        ("gzip", gzip.compress(JSON) + b"rest", "bad_encoding"),
        ("deflate", JSON, "bad_encoding"),
        ("deflate", zlib.compress(JSON)[:-3], "bad_encoding"),
        ("deflate", zlib.compress(JSON) + b"rest", "bad_encoding"),
        ("zstd", JSON, "bad_encoding"),
        ("zstd", zstandard.compress(JSON)[:8], "bad_encoding"),
        ("br", JSON, "bad_encoding"),
        ("br", brotli.compress(JSON)[:-1], "bad_encoding"),
        ("compress", JSON, "unsupported_encoding"),
        ("gzip, lzma", JSON, "unsupported_encoding"),
        ("gzip,gzip,gzip,gzip,gzip", JSON, "bad_encoding"),
    ],
)
def test_what_can_not_be_read_says_why(coding: str, body: bytes, kind: str) -> None:
    with pytest.raises(BodyError) as caught:
        decode(head(coding), body)
    assert caught.value.kind == kind


@pytest.mark.parametrize("number", ["1e999", "-1e+999", "0.1E400", "9" * 310, "-" + "9" * 5000, "1" + "0" * 300 + "e9"])
def test_a_number_that_no_float_holds_is_null_and_no_fault(number: str) -> None:
    body = f'{{"é€😀": 1, "a": [{number}, 1e308, "{number}", "\\\\"], "\\"{number}": {number}}}'
    assert decode(b"", body.encode()) == {"é€😀": 1, "a": [None, 1e308, number, "\\"], f'"{number}': None}


@pytest.mark.parametrize("coding", ["", "gzip", "deflate", "br", "zstd", "gzip, gzip"])
def test_a_bomb_is_refused_without_its_memory(coding: str) -> None:
    plain = b" " * (24 * 1024**2)
    body = {
        "": lambda: plain,
        "gzip": lambda: gzip.compress(plain, 9),
        "deflate": lambda: zlib.compress(plain, 9),
        "br": lambda: brotli.compress(plain, quality=5),
        "zstd": lambda: zstandard.compress(plain, 3),
        "gzip, gzip": lambda: gzip.compress(gzip.compress(plain, 9), 9),
    }[coding]()
    tracemalloc.start()
    try:
        with pytest.raises(BodyError) as caught:
            decode(head(coding), body, limit=1024**2)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.kind == "too_large"
    assert peak < 8 * 1024**2


def test_the_limit_itself_is_allowed() -> None:
    body = b"[" + b" " * 98 + b"]"
    coded_bodies = {
        "": body,
        "gzip": gzip.compress(body),
        "br": brotli.compress(body),
        "zstd": zstandard.compress(body),
    }
    for coding, coded in coded_bodies.items():
        assert decode(head(coding), coded, limit=100) == []
        with pytest.raises(BodyError):
            decode(head(coding), coded, limit=99)

"""A streamed answer is the document that it would have been unstreamed, however it is cut into chunks and bytes."""

from __future__ import annotations

import tracemalloc
from typing import Any

import orjson
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import AsyncOpenAI
from openai.lib.streaming.chat import ChatCompletionStreamState

from shadowproxy.compare.extraction.bodies import BodyError
from shadowproxy.compare.presets.events import event_data
from shadowproxy.compare.presets.openai import response

# What orjson can write: JSON has no lone surrogates.
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
TOKEN = st.fixed_dictionaries(
    {"token": TEXT, "logprob": st.floats(-20, 0), "bytes": st.none(), "top_logprobs": st.just([{"index": 1}])}
)
CALL = st.fixed_dictionaries(
    {
        "id": st.text("abc", min_size=1),
        "type": st.just("function"),
        "function": st.fixed_dictionaries({"name": st.sampled_from(["f", "get_get", "aa"]), "arguments": TEXT}),
    }
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": st.none() | TEXT, "refusal": st.none() | TEXT},
    optional={"tool_calls": st.lists(CALL, min_size=1, max_size=3), "reasoning_content": TEXT},
)
CHOICE = st.fixed_dictionaries(
    {
        "message": MESSAGE,
        "logprobs": st.none() | st.fixed_dictionaries({"content": st.lists(TOKEN, min_size=1, max_size=4)}),
        "finish_reason": st.sampled_from(["stop", "length", "tool_calls"]),
    }
)
DOCUMENT = st.fixed_dictionaries(
    {
        "id": st.just("chatcmpl-1"),
        "object": st.just("chat.completion"),
        "created": st.integers(1, 2**31),
        "model": st.just("m"),
        "choices": st.lists(CHOICE, min_size=1, max_size=3),
        "usage": st.just({"total_tokens": 3}),
    }
)


def cut(draw: st.DrawFn, whole: str) -> list[str]:
    """Pieces of a text, at least one, empty ones among them."""
    places = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=3)))
    return [whole[start:end] for start, end in zip([0, *places], [*places, len(whole)], strict=True)]


def deltas(draw: st.DrawFn, choice: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts of one choice's chunks, in order."""
    message = choice["message"]
    repeated = draw(st.booleans())
    parts: list[dict[str, Any]] = [{"delta": {"role": "assistant", "content": None, "refusal": None}}]
    for key in ("reasoning_content", "content", "refusal"):
        if message.get(key) is not None:
            parts += [{"delta": {key: piece}} for piece in cut(draw, message[key])]
    if repeated:
        parts = [{"delta": {**part["delta"], "role": "assistant"}} for part in parts]
    for at, call in enumerate(message.get("tool_calls", [])):
        first, *rest = cut(draw, call["function"]["arguments"])
        name = call["function"]["name"]
        parts.append({"delta": {"tool_calls": [{**call, "index": at, "function": {"name": name, "arguments": first}}]}})
        # Some servers say the name again with every piece.
        again = {"name": name} if repeated else {}
        parts += [{"delta": {"tool_calls": [{"index": at, "function": {**again, "arguments": one}}]}} for one in rest]
    if choice["logprobs"] is None:
        parts = [{**part, "logprobs": None} for part in parts]
    else:
        parts += [{"delta": {}, "logprobs": {"content": [token]}} for token in choice["logprobs"]["content"]]
    return [
        *({**part, "finish_reason": None} for part in parts),
        {"delta": {}, "finish_reason": choice["finish_reason"]},
    ]


@st.composite
def streamed(draw: st.DrawFn, choices: int = 3) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A document, and the chunks that stream it, those of its choices between one another."""
    document = draw(DOCUMENT)
    del document["choices"][choices:]
    head = {key: document[key] for key in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    for at, choice in enumerate(document["choices"]):
        choice["index"] = at
    waiting = [[{"index": choice["index"], **part} for part in deltas(draw, choice)] for choice in document["choices"]]
    chunks: list[dict[str, Any]] = []
    while waiting:
        which = draw(st.integers(0, len(waiting) - 1))
        chunks.append({**head, "choices": [waiting[which].pop(0)], "usage": None, "obfuscation": "x" * len(chunks)})
        waiting = [one for one in waiting if one]
    return document, [*chunks, {**head, "choices": [], "usage": document["usage"]}]


@st.composite
def written(draw: st.DrawFn, chunks: list[dict[str, Any]]) -> bytes:
    """Chunks as events, with comments, other fields, any line ends, and data in several lines."""
    end = draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
    out = [b"\xef\xbb\xbf" if draw(st.booleans()) else b"", draw(st.sampled_from([b"", b": ping" + end, end + end]))]
    for chunk in chunks:
        extra = draw(st.sampled_from([b"", b": keep-alive" + end + end, b"event: message" + end, b"id: 7" + end]))
        data = orjson.dumps(chunk, option=orjson.OPT_INDENT_2 if draw(st.booleans()) else 0)
        space = draw(st.sampled_from([b"", b" "]))
        out.append(extra + b"".join(b"data:" + space + line + end for line in data.split(b"\n")) + end)
    return b"".join(out) + b"data: [DONE]" + draw(st.sampled_from([b"", end, end + end]))


@settings(max_examples=150)
@given(st.data())
def test_a_stream_joins_to_the_unstreamed_document(data: st.DataObject) -> None:
    document, chunks = data.draw(streamed())
    assert response(b"", data.draw(written(chunks))) == document
    assert response(b"", orjson.dumps(document)) == document


@settings(max_examples=50)
@given(st.data())
def test_a_stream_that_breaks_off_is_no_answer(data: st.DataObject) -> None:
    _, chunks = data.draw(streamed(choices=1))
    body = b"".join(b"data: " + orjson.dumps(chunk) + b"\n\n" for chunk in chunks)
    broken = body[: data.draw(st.integers(0, body.rindex(b'"finish_reason":"')))]
    with pytest.raises(BodyError) as caught:
        response(b"", broken)
    assert caught.value.kind == "bad_body"
    assert response(b"", broken[: broken.rindex(b"\n\n") + 2] + DONE) if b"\n\n" in broken else True


def event(**chunk: Any) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


def said(content: Any, finish: str | None = None, index: int = 0) -> bytes:
    return event(choices=[{"index": index, "delta": {"content": content}, "finish_reason": finish}])


DONE = b"data: [DONE]\n\n"


def test_a_stream_may_end_with_the_last_finish_reason() -> None:
    assert response(b"", said("a") + said("b", "stop"))["choices"][0]["message"] == {"content": "ab"}
    with pytest.raises(BodyError):
        response(b"", said("a") + said("b", "stop") + said("c", index=1))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        DONE,
        b": nothing\n\n" + DONE,
        b"data: {]\n\n" + DONE,
        b"data: 7\n\n" + DONE,
        said("a") + event(error={"message": "overloaded"}) + DONE,
        event(choices=7) + DONE,
        event(choices=[7]) + DONE,
        event(choices=[{"index": "0"}]) + DONE,
        event(choices=[{"index": True}]) + DONE,
        event(choices=[{"delta": "text"}]) + DONE,
        said("a") + said(["b"]) + DONE,
        said({"a": 1}) + said("b") + DONE,
        said("a") + said({"a": 1}) + DONE,
        said([{"index": 0, "a": "b"}]) + said([{"a": "c"}]) + DONE,
        said({"a": {"b": [1]}}) + said({"a": {"b": 1}}) + DONE,
        b'data: {"choices": [{"delta": {"content": "a"}}], "x": NaN}\n\n' + DONE,
        b"<html></html>",
        b"{",
    ],
    ids=str,
)
def test_no_answers(body: bytes) -> None:
    with pytest.raises(BodyError) as caught:
        response(b"", body)
    assert caught.value.kind == "bad_body"


def test_events_are_told_apart_as_the_specification_has_it() -> None:
    body = b"\xef\xbb\xbfdata:  a\ndata\ndata: b\r\n: no\rother: c\n\n\ndata\n\ndata:c\r\rdata: d"
    assert list(event_data(body)) == [b" a\n\nb", b"c", b"d"]


def test_calls_stand_by_their_index_and_a_reason_is_not_taken_back() -> None:
    def called(index: int, name: str) -> bytes:
        calls = [{"index": index, "function": {"name": name, "arguments": "{}"}}]
        return event(choices=[{"index": 0, "delta": {"tool_calls": calls}, "finish_reason": None}])

    body = called(1, "b") + said(None, "tool_calls") + called(0, "a") + DONE
    choice = response(b"", body)["choices"][0]
    assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == ["a", "b"]
    assert choice["finish_reason"] == "tool_calls"


def test_parts_of_content_and_empty_lists() -> None:
    body = said([]) + said([{"type": "text", "text": "a"}]) + said([{"type": "text", "text": "b"}], "stop")
    parts = response(b"", body)["choices"][0]["message"]["content"]
    assert parts == [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]


def test_nesting_past_what_can_be_followed_is_a_bad_body() -> None:
    deep = b'{"a":' * 900 + b'"b"' + b"}" * 900
    chunk = b'data: {"choices":[{"index":0,"delta":{"x":' + deep + b'},"finish_reason":"stop"}]}\n\n'
    with pytest.raises(BodyError) as caught:
        response(b"", chunk + chunk + DONE)
    assert caught.value.kind == "bad_body"


def test_a_long_stream_is_not_copied_for_every_piece() -> None:
    piece = "x" * 64
    body = b"".join(said(piece) for _ in range(20_000)) + said("", "stop")
    assert len(response(b"", body)["choices"][0]["message"]["content"]) == 64 * 20_000


@settings(max_examples=300)
@given(
    st.binary(max_size=200)
    | st.lists(
        st.sampled_from([b"data:", b" ", b"\n", b"\r\n", b"\n\n", b"[DONE]", b"{", b"}", b'{"choices":[', b"]}", b'"a"',
                         b"null", b'{"index":0,"delta":{"content":', b"}}", b":", b"\xff", said("a", "stop"), DONE]),
        max_size=12,
    ).map(b"".join)
)  # fmt: skip
def test_any_bytes_are_a_document_or_a_bad_body(body: bytes) -> None:
    for head in (b"", b"Content-Encoding: gzip"):
        try:
            found = response(head, body)
        except BodyError:
            continue
        assert orjson.loads(orjson.dumps(found)) == found


def test_what_a_hostile_stream_may_cost_is_bounded() -> None:
    with pytest.raises(BodyError) as caught:
        response(b"", b"data:{}\n\n" * 100_001 + said("a", "stop"))
    assert caught.value.kind == "too_large"
    assert response(b"", b"data:{}\n\n" * 99_999 + said("a", "stop"))
    tracemalloc.start()
    try:
        with pytest.raises(BodyError):
            response(b"", b":a\r" * 100_000)
        assert tracemalloc.get_traced_memory()[1] < 1_500_000
    finally:
        tracemalloc.stop()


CHUNKS = [
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "Lét"}, "finish_reason": None}]},
    {"choices": [{"index": 1, "delta": {"role": "assistant", "content": "Other"}, "finish_reason": None}]},
    {"choices": [{"index": 0, "delta": {"content": " me look 🔍"}, "finish_reason": None}]},
    {"choices": [{"index": 0, "finish_reason": None, "delta": {"tool_calls": [
        {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}]}}]},
    {"choices": [{"index": 0, "finish_reason": None, "delta": {"tool_calls": [
        {"index": 0, "function": {"arguments": '{"city":'}}]}}]},
    {"choices": [{"index": 0, "finish_reason": None, "delta": {"tool_calls": [
        {"index": 1, "id": "call_2", "type": "function", "function": {"name": "time", "arguments": "{}"}}]}}]},
    {"choices": [{"index": 0, "finish_reason": None, "delta": {"tool_calls": [
        {"index": 0, "function": {"arguments": '"Köln"}'}}]}}]},
    {"choices": [{"index": 1, "delta": {}, "finish_reason": "length"}]},
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
    {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}},
]  # fmt: skip


async def test_openais_own_client_makes_the_same_of_a_stream() -> None:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "m"}
    body = b"".join(b"data: " + orjson.dumps(head | chunk) + b"\n\n" for chunk in CHUNKS) + DONE

    async def chat(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        # Within characters, and between CR and LF of nothing: seven bytes at a time.
        for at in range(0, len(body), 7):
            await answer.write(body[at : at + 7])
        return answer

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        state = ChatCompletionStreamState()
        async with AsyncOpenAI(base_url=url, api_key="none") as client:
            chunks = await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "?"}], stream=True
            )
            async for chunk in chunks:
                state.handle_chunk(chunk)
        theirs = state.current_completion_snapshot.to_dict()
    finally:
        await runner.cleanup()
    ours = response(b"", body)
    assert len(ours["choices"]) == len(theirs["choices"]) == 2  # type: ignore[arg-type]
    for mine, other in zip(ours["choices"], theirs["choices"], strict=True):  # type: ignore[arg-type]
        assert mine["finish_reason"] == other["finish_reason"]
        for key in ("role", "content"):
            assert mine["message"][key] == other["message"][key]
        calls = [(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in
                 mine["message"].get("tool_calls", [])]  # fmt: skip
        assert calls == [
            (call["id"], call["function"]["name"], call["function"]["arguments"])
            for call in other["message"].get("tool_calls") or []
        ]
    assert ours["usage"] == theirs["usage"]

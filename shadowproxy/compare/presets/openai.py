"""OpenAI's chat completions, and whatever speaks them: vLLM, TGI, llama.cpp, Ollama, LiteLLM, Azure.

`POST /v1/chat/completions` answers with one JSON document, or with `stream: true` as server-sent events: chunks, each
with `delta`s of the choices, and `[DONE]` at the end. Both give the same document here, so that a route reads either,
and a service that streams may be compared with one that doesn't:

* `choices` in the order of their `index`; of each, `message` is its deltas joined: texts (`content`, `refusal`,
  `reasoning_content` and the like, the `arguments` of calls) one after another, `tool_calls` by their own `index`,
  which the document then lacks; `role`, `type` and `id` are the first that was sent. `logprobs` are the lists joined.
  Of everything else in a choice (`finish_reason`) the last that is not null counts.
* Beside `choices` the last value that is not null or empty counts: `usage` stands in the last chunk, `model` may be
  empty in the first. `object` loses its `.chunk`, and `obfuscation` (padding against eavesdroppers) is left out.

A stream is whole with `[DONE]`, or once every choice has a `finish_reason` (some servers end there). One that breaks
off before, or that carries an `error`, is no answer: BodyError (`bad_body`); nor is one of more than
`readings.LONGEST` chunks (`too_large`).

`text` is the first choice's: what it says, refuses, and calls, as `name{arguments}`.

The older completions (`/v1/completions`) are the same with `text` in the choices.

Source: https://platform.openai.com/docs/api-reference/chat, …/chat-streaming, …/completions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from shadowproxy.compare.extraction.bodies import BodyError, uncoded
from shadowproxy.compare.extraction.readings import LONGEST
from shadowproxy.compare.presets.events import event_data
from shadowproxy.compare.presets.joining import finished, join
from shadowproxy.compare.presets.sample import Sample

_DONE = b"[DONE]"
_JOINED = frozenset({"text", "logprobs"})
"""What comes in pieces beside the deltas."""


def response(head: bytes, body: bytes) -> Any:
    """The document in a body, streamed or not. Raises BodyError."""
    return _read(uncoded(head, body))


def _read(data: bytes) -> Any:
    # The media type is not needed: no JSON document begins as an event stream does.
    try:
        if data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"["):
            return orjson.loads(data.removeprefix(b"\xef\xbb\xbf"))
        return joined(data)
    except (orjson.JSONDecodeError, RecursionError):
        raise BodyError("bad_body") from None


def joined(stream: bytes) -> dict[str, Any]:
    """The document that a stream's chunks make. Raises BodyError, and orjson's error for a chunk that is no JSON."""
    whole: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    said: dict[str, Any] | None = None
    done = False
    for number, data in enumerate(event_data(stream)):
        if number > LONGEST:
            raise BodyError("too_large")
        if data.strip() == _DONE:
            done = True
            break
        chunk = orjson.loads(data)
        if not isinstance(chunk, dict) or chunk.get("error") is not None:
            raise BodyError("bad_body")
        chunk.pop("obfuscation", None)
        _add_choices(choices, chunk.pop("choices", None))
        if chunk != said:  # nearly all chunks of a stream say the same of the whole
            whole |= {key: value for key, value in chunk.items() if value is not None and value != ""}
            said = chunk
    ended = bool(choices) and all(choice.get("finish_reason") is not None for choice in choices.values())
    if said is None or not (done or ended):
        raise BodyError("bad_body")
    if isinstance(whole.get("object"), str):
        whole["object"] = whole["object"].removesuffix(".chunk")
    whole["choices"] = [{"index": at, **finished(choices[at])} for at in sorted(choices)]
    return whole


def _add_choices(choices: dict[int, dict[str, Any]], pieces: Any) -> None:
    if pieces is None:
        return
    if not isinstance(pieces, list):
        raise BodyError("bad_body")
    for piece in pieces:
        at = piece.get("index", 0) if isinstance(piece, dict) else None
        if type(at) is not int:
            raise BodyError("bad_body")
        _add(choices.setdefault(at, {}), piece)


def _add(choice: dict[str, Any], piece: Mapping[str, Any]) -> None:
    for key, value in piece.items():
        if key == "index":
            continue
        if key == "delta":
            if value is not None and not isinstance(value, dict):
                raise BodyError("bad_body")
            choice["message"] = join(choice.get("message", {}), value)
        elif value is None:
            choice.setdefault(key, None)
        else:
            choice[key] = join(choice.get(key), value) if key in _JOINED else value


def _detect(sample: Sample, kind: str, within: str) -> str | None:
    answer = sample.response
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(answer, dict) or not isinstance(choices, list):
        return None
    streamed = ", streamed" if "text/event-stream" in sample.response_headers.get("content-type", "") else ""
    if choices and all(isinstance(choice, dict) and within in choice for choice in choices):
        return f"`choices` with `{within}`{streamed}"
    return f'`object` is "{kind}"{streamed}' if not choices and answer.get("object") == kind else None


def detect_chat(sample: Sample) -> str | None:
    """`choices` with `message`."""
    return _detect(sample, "chat.completion", "message")


def detect_completions(sample: Sample) -> str | None:
    """`choices` with `text`."""
    return _detect(sample, "text_completion", "text")

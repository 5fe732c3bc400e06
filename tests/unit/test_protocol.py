# SPDX-License-Identifier: GPL-3.0-or-later
"""The pipe: every message comes out as it went in; whatever else comes in is refused, never a crash."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ex4d_engine import protocol
from ex4d_engine.errors import ERROR_CODES, Ex4dError
from ex4d_engine.protocol import (
    Cancel,
    Done,
    Error,
    Heartbeat,
    Hello,
    Log,
    Message,
    Preview,
    Progress,
    Request,
    Shutdown,
    decode,
    encode,
)

# lone surrogates too: they stand in file names that are no valid Unicode
texts = st.text(st.characters(exclude_categories=[]) | st.sampled_from('\n\r\u2028"\\\0\ud800\udcff'))
unpaired = texts.filter(lambda text: json.loads(json.dumps(text)) == text)
ids = st.integers(-(2**53), 2**53)
numbers = st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | numbers | unpaired,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(unpaired, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(unpaired, values, max_size=4)
MESSAGES: dict[type[Message], st.SearchStrategy[Message]] = {
    Request: st.builds(Request, ids, unpaired, objects),
    Cancel: st.builds(Cancel, ids),
    Shutdown: st.just(Shutdown()),
    Hello: st.builds(
        Hello,
        ids,
        unpaired,
        unpaired,
        st.tuples(numbers, numbers),
        st.lists(unpaired).map(tuple),
        st.lists(unpaired).map(tuple),
    ),
    Progress: st.builds(Progress, ids, unpaired, ids, ids, st.none() | numbers),
    Preview: st.builds(Preview, ids, unpaired),
    Log: st.builds(Log, ids, unpaired),
    Error: st.builds(Error, ids, unpaired, unpaired, unpaired, unpaired),
    Done: st.builds(Done, ids, objects),
    Heartbeat: st.builds(Heartbeat, ids),
}
messages: st.SearchStrategy[Message] = st.one_of(*MESSAGES.values())


def test_every_message_has_a_strategy_here() -> None:
    assert set(MESSAGES) == set(protocol._TYPES.values())


@pytest.mark.parametrize("kind", MESSAGES)
@given(data=st.data())
def test_a_message_comes_out_as_it_went_in(kind: type[Message], data: st.DataObject) -> None:
    message = data.draw(MESSAGES[kind])
    line = encode(message)
    assert line.endswith(b"\n") and line.count(b"\n") == 1 and b"\r" not in line
    line.decode("utf-8")
    assert decode(line) == message
    assert type(decode(line)) is kind


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_refused(line: bytes) -> None:
    decodes(line)


@given(values)
def test_any_json_is_a_message_or_refused(value: Any) -> None:
    decodes(json.dumps(value).encode())


@given(messages, st.data(), values)
def test_any_value_in_any_field_is_a_message_or_refused(message: Message, data: st.DataObject, value: Any) -> None:
    document = json.loads(encode(message))
    document[data.draw(st.sampled_from(sorted(document)))] = value
    decodes(json.dumps(document).encode())


@given(messages, st.data())
def test_a_message_without_a_field_or_with_one_more_is_a_message_or_refused(
    message: Message, data: st.DataObject
) -> None:
    document = json.loads(encode(message))
    assert decode(json.dumps({**document, "of a newer version": 1}).encode()) == message
    del document[data.draw(st.sampled_from(sorted(document)))]
    decodes(json.dumps(document).encode())


@given(messages, st.data())
def test_a_cut_line_is_refused(message: Message, data: st.DataObject) -> None:
    line = encode(message).rstrip(b"\n")
    with pytest.raises(Ex4dError):
        decode(line[: data.draw(st.integers(0, len(line) - 1))])


def decodes(line: bytes) -> None:
    """Nothing but `bad_request` may be raised, and what is let through can be sent on."""
    try:
        message = decode(line)
    except Ex4dError as error:
        assert error.code == "bad_request" and error.hint
        return
    assert decode(encode(message)) == message


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"null",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'\xef\xbb\xbf{"type":"shutdown"}',
        b'{"type":"launch"}',
        b'{"type":["request"]}',
        b'{"type":"request"}',
        b'{"type":"request","id":true,"method":"ping"}',
        b'{"type":"request","id":"1","method":"ping"}',
        b'{"type":"request","id":1.0,"method":"ping"}',
        b'{"type":"request","id":1,"method":"ping","params":[]}',
        b'{"type":"request","id":1,"method":"ping","params":{"a":NaN}}',
        b'{"type":"request","id":1,"method":"ping","params":{"a":1e999}}',
        b'{"type":"request","id":1,"method":null}',
        b'{"type":"cancel","id":' + b"9" * 30 + b"}",
        b'{"type":"cancel","id":' + b"9" * 5000 + b"}",
        b'{"type":"progress","id":1,"stage":"depth","done":1,"total":2,"eta_s":"soon"}',
        b'{"type":"progress","id":1,"stage":"depth","done":1,"total":2,"eta_s":' + b"9" * 400 + b"}",
        b'{"type":"hello","protocol":1,"engine":"","device":"","memory_gib":[1]}',
        b'{"type":"hello","protocol":1,"engine":"","device":"","memory_gib":["1","2"]}',
        b'{"type":"hello","protocol":1,"engine":"","device":"","memory_gib":[1,2],"presets":[1]}',
        b'{"type":"hello","protocol":1,"engine":"","device":"","memory_gib":[1,2],"presets":"preview"}',
    ],
)
def test_what_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(Ex4dError, match="not an EX-4D message") as caught:
        decode(line)
    assert caught.value.code == "bad_request"


def test_lines_beyond_the_limit_are_refused_at_both_ends() -> None:
    overhead = len(encode(Log(1, "")))
    longest = encode(Log(1, "x" * (protocol.MAX_LINE_BYTES - overhead)))
    assert len(longest) == protocol.MAX_LINE_BYTES
    assert isinstance(decode(longest), Log)
    with pytest.raises(Ex4dError, match="bytes"):
        decode(longest + b"\n")
    with pytest.raises(Ex4dError, match="bytes"):
        encode(Log(1, "x" * protocol.MAX_LINE_BYTES))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_json_does_not_have_is_a_bug_of_the_sender(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        encode(Done(1, {"loss": value}))


def test_text_is_sent_as_people_read_it() -> None:
    assert "Ünï 作業".encode() in encode(Preview(1, "/Ünï 作業 shot/composite.0001.png"))


def test_an_error_becomes_an_exception_also_when_its_code_is_of_a_newer_engine() -> None:
    for code in ERROR_CODES:
        assert Error(1, code, "m", "h", "a").exception().code == code
    newer = Error(1, "made_of_cheese", "The moon.", "Look up.", "ex4d.look").exception()
    assert (newer.code, newer.message, newer.hint, newer.action) == ("internal", "The moon.", "Look up.", "ex4d.look")

"""JSON from others: what is read, and what is said of what cannot be."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbtool.facts import FactsError, Reader
from kbtool.json_text import JsonError, parsed


@pytest.mark.parametrize(
    ("said", "read"),
    [
        (rb'"\ud83d\ude00"', "\U0001f600"),
        (rb'"\uD83D\uDE00 \ud7ff\ue000"', "\U0001f600 \ud7ff\ue000"),
        (rb'"\\ud800"', r"\ud800"),
        (rb'"\\\\udfff \"\u0041"', r'\\udfff "A'),
        ("\ufffd".encode().join([b'"', b'"']), "\ufffd"),
    ],
)
def test_whole_characters_are_read(said: bytes, read: str) -> None:
    assert parsed(said) == read


@pytest.mark.parametrize(
    ("said", "where"),
    [
        (rb'"\ud800"', r"line 1, column 2: \ud800"),
        (rb'"\udfff"', r"line 1, column 2: \udfff"),
        (rb'"\ude00\ud83d"', r"line 1, column 2: \ude00"),
        (b'["a",\n "b\\ud83d\\ud83d\\ude00"]', r"line 2, column 4: \ud83d"),
        (rb'"\\\udbff"', r"line 1, column 4: \udbff"),
        (rb'{"\udc00": 1}', r"line 1, column 3: \udc00"),
        (b'[1,\n"\xed\xa0\x80"]', "line 2: not UTF-8"),
        (b'{"a": NaN}', "NaN is not a number"),
        (b'{"a":\n}', "line 2, column 1: not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": 1, "a": 1}', "line 1, column 16: an object names a key twice"),
        (
            b'{"\\u0061": [{}, {"}": "\\"}"}],\n "b": {"c": 1,"d":2, "c": 3}, "x": {}}',
            "line 2, column 28: an object names a key twice",
        ),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(said: bytes, where: str) -> None:
    with pytest.raises(JsonError) as told:
        parsed(said)
    assert where in str(told.value)


@given(st.lists(st.one_of(st.text(), st.characters(categories=["Cs"]), st.sampled_from(["\\", '"', "ud800", "\\ud800"]))))
def test_a_text_is_read_as_it_is_or_not_at_all(pieces: list[str]) -> None:
    text = "".join(pieces)
    try:
        whole: str | None = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        whole = None
    try:
        read = parsed(json.dumps(text))
    except JsonError:
        read = None
    assert read == whole


LINKED = {"@id": "https://p.example/1", "@type": "https://w3id.org/kbtool/cg/Patient", "http://p.example/x": "\ud800"}
PATIENT = {"resourceType": "Patient", "id": "\ud800"}
BUNDLE = {"resourceType": "Bundle", "entry": [{"resource": {"resourceType": "Condition", "code": {"text": "\ud800"}}}]}
WHOLE = {"resourceType": "Patient", "id": "1"}


@pytest.mark.parametrize("lines", [[LINKED], [PATIENT], [BUNDLE], [WHOLE, WHOLE, PATIENT], [BUNDLE, WHOLE]])
def test_no_form_of_facts_lets_half_a_character_in(lines: list[dict[str, Any]]) -> None:
    """It cannot be written, so that an answer with it could not be given."""
    with pytest.raises(FactsError, match=rf"^facts: (line {len(lines)}: )?line 1, column \d+: \\ud800 is only one half"):
        Reader().add("facts", "\n".join(map(json.dumps, lines)).encode())

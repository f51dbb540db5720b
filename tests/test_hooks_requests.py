"""CDS Hooks 2.0: requests that are wrong, incomplete, hostile or random, and feedback."""

from __future__ import annotations

import copy
import json
import re
import socket
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from hooks_requests import (
    FOLDER,
    INSTANCE,
    NOW,
    RXNORM,
    bundle,
    call,
    cards,
    changed,
    constructs,
    encoded,
    faults,
    kb,
    order,
    outcome,
    rendered,
    request,
    request_of,
    service,
    with_orders,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kbtool import hooks
from kbtool.hooks.markdown import escaped, plain, shortened
from kbtool.hooks.prefetch import templates
from kbtool.namespaces import RDFS

Json = dict[str, Any]


# --- What is wrong with a request ----------------------------------------------------------------------


@pytest.mark.parametrize("identifier", ["", "nothing", "dialysis", "dialysis-order-sign/", "DIALYSIS-ORDER-SIGN", "../x", "é"])
def test_an_unknown_service_is_404(identifier: str) -> None:
    for answer in (
        hooks.call(kb(), identifier, encoded(request("P22", "order-sign")), now=NOW),
        hooks.feedback(kb(), identifier, encoded(FEEDBACK)),
    ):
        assert answer[0] == 404
        assert "no service" in outcome(answer[1])


@pytest.mark.parametrize(
    "path",
    [("hook",), ("hookInstance",), ("context",), *(("context", k) for k in ("userId", "patientId", "draftOrders", "selections"))],
)  # fmt: skip
@pytest.mark.parametrize("value", [..., None, "", 5, [], {}, True, [5]])
def test_a_required_field_that_is_missing_or_wrong_is_400(path: tuple[str, ...], value: Any) -> None:
    document = with_orders(order(), hook="order-select", selections=["MedicationRequest/103"])
    if path[-1] == "selections" and value == []:
        return
    status, answer = call(changed(document, *path, to=value), "order-select")
    assert status == 400
    assert path[-1] in outcome(answer) or path[-1] == "hook"


@pytest.mark.parametrize("hook", ["order-sign", "order-select", "patient-view", "appointment-book", "x"])
def test_a_hook_that_is_not_the_service_s_is_400(hook: str) -> None:
    for each in hooks.HOOKS:
        document = with_orders(order(), hook="order-select") | {"hook": hook}
        assert (call(document, each)[0] == 200) == (hook == each)


@pytest.mark.parametrize(
    "instance", ["x", INSTANCE[:-1], f"{{{INSTANCE}}}", f"urn:uuid:{INSTANCE}", INSTANCE.replace("-", ""), INSTANCE + "\n"]
)
def test_a_hook_instance_that_is_no_uuid_is_400(instance: str) -> None:
    status, answer = call(with_orders(order()) | {"hookInstance": instance})
    assert status == 400
    assert "hookInstance" in outcome(answer)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"5", b'"x"', b"\xff\xfe", b"{" * 100_000, b"[" * 100_000, b'{"a": NaN}', b"\x00"]
)
def test_what_is_no_json_object_is_400(body: bytes) -> None:
    for hook in hooks.HOOKS:
        assert call(body, hook)[0] == 400
    assert hooks.feedback(kb(), service("order-sign"), body)[0] == 400


@pytest.mark.parametrize("identifier", ["a b", "a/b", "é", "x" * 65, "Patient/", "<script>", "1\n2"])
def test_a_patient_id_that_is_none_is_400(identifier: str) -> None:
    status, answer = call(changed(with_orders(order()), "context", "patientId", to=identifier))
    assert status == 400
    assert identifier.strip() not in outcome(answer) or len(identifier) < 4


SOMEBODY = {"reference": "Patient/somebody"}
SERVERS = [{"reference": f"https://{name}.example.org/fhir/Patient/P22"} for name in "xy"]
OTHERS = [
    ("prefetch", "patient", {"resourceType": "Patient", "id": "somebody"}),
    ("prefetch", "conditions", bundle([{"resourceType": "Condition", "id": "c", "subject": SOMEBODY}])),
    ("prefetch", "observations-day", bundle([{"resourceType": "Observation", "id": "o", "subject": SOMEBODY}])),
    ("prefetch", "extra", {"resourceType": "Patient", "id": "somebody"}),
    ("prefetch", "extra", bundle([{"resourceType": "Procedure", "id": f"p{n}", "subject": s} for n, s in enumerate(SERVERS)])),
    ("context", "draftOrders", bundle([order(subject=SOMEBODY)])),
    ("context", "patientId", "somebody"),
]


@pytest.mark.parametrize(("part", "key", "value"), OTHERS)
def test_data_of_another_patient_is_400(part: str, key: str, value: Any) -> None:
    status, answer = call(changed(with_orders(order()), part, key, to=value))
    assert status == 400
    assert "another patient" in outcome(answer)
    assert "somebody" not in json.dumps(answer)


def test_the_patient_s_own_server_is_no_other_patient() -> None:
    document = with_orders(order(subject={"reference": "https://ehr.example.org/fhir/Patient/P22"}))
    assert cards(document)[0]["summary"].startswith("HARD STOP"), "a client need not name its server"
    document["fhirServer"] = "https://ehr.example.org/fhir"
    assert cards(document)[0]["summary"].startswith("HARD STOP")
    assert call(document | {"fhirServer": "https://other.example.org/fhir"})[0] == 400
    document["context"]["patientId"] = "Patient/P22"
    assert cards(document)[0]["summary"].startswith("HARD STOP")


def test_full_urls_of_a_searchset_are_no_other_patient() -> None:
    document = with_orders(order())
    for key, value in document["prefetch"].items():
        for entry in (value or {}).get("entry", ()):
            entry["fullUrl"] = f"https://ehr.example.org/fhir/{entry['resource']['resourceType']}/{entry['resource']['id']}"
            entry["search"] = {"mode": "match"}
        assert key
    assert cards(document)[0]["summary"].startswith("HARD STOP")


# --- Prefetch that is missing --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prefetch",
    [
        ...,
        {},
        {"conditions": None},
        {"procedures": {"resourceType": "OperationOutcome", "issue": []}},
        {"procedures": []},
        {"procedures": "x"},
    ],
)
def test_without_what_decides_the_scope_it_is_412(prefetch: Any) -> None:
    """Section "Prefetch Template": required data that is not there and cannot be fetched."""
    status, answer = call(changed(with_orders(order()), "prefetch", to=prefetch))
    assert status == 412
    assert "procedures" in outcome(answer)


def test_null_is_an_answer() -> None:
    """Null says that there is nothing on record; nothing is known to be wrong with that."""
    prefetch = {t.key: None for t in templates(kb().knowledge)}
    for hook in hooks.HOOKS:
        assert cards(changed(with_orders(hook=hook), "prefetch", to=prefetch)) == []


@pytest.mark.parametrize("key", [t.key for t in templates(kb().knowledge) if not t.scope and t.kinds])
def test_what_was_not_sent_is_named(key: str) -> None:
    template = next(t for t in templates(kb().knowledge) if t.key == key)
    for value in (..., {"resourceType": "OperationOutcome", "issue": []}):
        found = cards(changed(request("P01", "patient-view"), "prefetch", key, to=value))
        (card,) = [c for c in found if c["summary"].startswith("INCOMPLETE")]
        assert key in rendered(card["detail"])
        assert (card["indicator"] == "warning") == (not template.coded)


def test_a_missing_measurement_is_unknown_and_not_normal() -> None:
    """P22 without its results: magnesium is not known to be low, so nothing is advised about it; the hard stop stays."""
    document = changed(request("P22", "patient-view"), "prefetch", "observations-local")
    advice = " ".join(c["summary"] for c in cards(document) if c["summary"].startswith("To do"))
    assert "Measure serum magnesium" in advice
    assert "Raise magnesium" not in advice
    stopped = changed(with_orders(order()), "prefetch", "observations-local")
    assert cards(stopped)[0]["summary"].startswith("HARD STOP: Magnesium")


def test_a_page_of_several_is_named() -> None:
    document = request("P01", "patient-view")
    document["prefetch"]["procedures"]["link"] = [{"relation": "next", "url": "https://ehr.example.org/fhir?page=2"}]
    card = next(c for c in cards(document) if c["summary"].startswith("INCOMPLETE"))
    assert "first page was sent: procedures" in rendered(card["detail"])


def test_a_result_that_cannot_be_read_is_named() -> None:
    document = request("P01", "patient-view")
    results = [e["resource"] for e in document["prefetch"]["observations-local"]["entry"]]
    magnesium = next(r for r in results if r["code"]["coding"][0]["code"] == "SerumMagnesium")
    del magnesium["valueQuantity"]["unit"], magnesium["valueQuantity"]["code"]
    card = next(c for c in cards(document) if c["summary"].startswith("INCOMPLETE"))
    assert "Serum magnesium" in rendered(card["detail"])
    assert card["indicator"] == "warning"


def test_a_result_that_is_not_plausible_is_named() -> None:
    document = request("P01", "patient-view")
    results = [e["resource"] for e in document["prefetch"]["observations-local"]["entry"]]
    next(r for r in results if r["code"]["coding"][0]["code"] == "SerumMagnesium")["valueQuantity"]["value"] = "#17#"
    card = next(c for c in cards(document) if c["summary"].startswith("INCOMPLETE"))
    assert "Set aside, counts as missing" in card["detail"]


def test_a_patient_whose_facts_are_refused_is_not_passed_over() -> None:
    turtle = (
        (FOLDER / "P22.ttl")
        .read_bytes()
        .replace(b"a dk:HaemodialysisSession ;", b'a dk:HaemodialysisSession ; cg:end "2020-01-01T00:00:00Z"^^xsd:dateTime ;')
    )
    status, answer = call(request_of(turtle, "P22", "order-sign"))
    assert status == 200
    first = answer["cards"][0]
    assert first["summary"].startswith(("NOT CHECKED", "INCOMPLETE"))
    assert faults(answer) == []


# --- Never another computer, never a trace -------------------------------------------------------------


def test_the_fhir_server_is_never_called(monkeypatch: pytest.MonkeyPatch) -> None:
    def no(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was used")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, no)
    monkeypatch.setattr(socket, "getaddrinfo", no)
    document = with_orders(order()) | {
        "fhirServer": "https://ehr.example.org/fhir",
        "fhirAuthorization": {"access_token": "secret", "token_type": "Bearer", "expires_in": 300, "scope": "*", "subject": "s"},
    }
    assert cards(document)[0]["summary"].startswith("HARD STOP")
    assert call(changed(document, "prefetch"))[0] == 412


def test_nothing_is_logged_or_printed(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    caplog.set_level(0)
    call(with_orders(order()))
    call(changed(with_orders(order()), "context", "patientId", to="somebody"))
    hooks.feedback(kb(), service("order-sign"), encoded(FEEDBACK))
    assert caplog.records == []
    assert capsys.readouterr() == ("", "")


# --- What a record says cannot become markup -----------------------------------------------------------

NASTY = [
    "<script>alert(1)</script>",
    "[click](https://evil.example.org)",
    "![x](https://evil.example.org/x.png)",
    "**bold** _it_ ~~no~~",
    "https://evil.example.org",
    "www.evil.example.org",
    "mailto:a@b.example",
    "javascript:alert(1)",
    "`code` and ```fence```",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "\n# Heading\n- item\n1. one",
    "&lt;b&gt; &amp; <b>",
    "\\[x\\](y)",
    "<!-- x -->",
    "<https://evil.example.org>",
    "\u202egnp.exe\u202c",
    "a\x00b\x1b[31m",
    "\ufeff\u200b",
    "[x]: https://evil.example.org",
    "~~~\ncode\n~~~",
    "$math$",
    "@everyone",
    "1. x",
    "+ x",
    "===",
]


@pytest.mark.parametrize("text", NASTY)
def test_text_is_escaped(text: str) -> None:
    assert constructs(escaped(text)) <= {"paragraph_open", "paragraph_close"}
    assert rendered(escaped(text)).replace("\n", "") == plain(text)
    assert not re.search(r"(?i)(?<!\\)\bwww\.|[a-z]://", escaped(text).replace("\\", "\\").replace("\\:", ""))


@given(st.text(max_size=80))
def test_any_text_is_escaped(text: str) -> None:
    assert constructs(escaped(text)) <= {"paragraph_open", "paragraph_close"}
    assert rendered(escaped(text)) == plain(text)
    assert len(shortened(text)) < 140
    assert "\n" not in shortened(text)


@pytest.mark.parametrize("text", NASTY)
def test_an_order_cannot_write_on_the_card(text: str) -> None:
    document = with_orders(order(medicationCodeableConcept={"coding": [{"system": RXNORM, "code": "6585"}], "text": text}))
    (card,) = cards(document)
    assert constructs(card["detail"]) <= {
        "bullet_list_open", "bullet_list_close", "list_item_open", "list_item_close", "paragraph_open", "paragraph_close",
        "strong_open", "strong_close", "em_open", "em_close",
    }  # fmt: skip
    assert card["detail"].count("**Do not carry out this order.**") == 1
    assert card["detail"].count("\n- ") == with_orders_lines()


@cache
def with_orders_lines() -> int:
    return str(cards(with_orders(order()))[0]["detail"]).count("\n- ")


# --- Whatever is sent ----------------------------------------------------------------------------------

JUNK: list[Any] = [
    None,
    True,
    0,
    -1,
    1e308,
    "",
    "x",
    "Patient/P22",
    "\ud800",
    [],
    {},
    [[]],
    [None],
    [{}],
    {"resourceType": "Bundle"},
    {"coding": [None]},
    {"resourceType": "Bundle", "entry": [None]},
    {"resourceType": "Bundle", "entry": {}},
    {"resourceType": 5},
    {"reference": []},
    {"resourceType": "Patient"},
    {"resourceType": "Observation"},
    {"resourceType": "MedicationRequest", "id": {}},
    "9" * 400,
    "2026-13-45",
    {"value": "1.3"},
    {"value": True, "unit": 5},
    {"start": "x", "end": []},
    "a" * 70000,
    {"coding": [{"system": [], "code": {}}]},
]


def paths(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield (*path, key)
        yield from paths(value, (*path, key))


BASES = [
    request("P22", "order-sign"),
    request("Order-of-all-steps", "order-select"),
    with_orders(order()),
    request("P15", "patient-view"),
]
PLACES = [list(paths(base)) for base in BASES]


@st.composite
def mutated(draw: st.DrawFn) -> Json:
    """A request with up to four places that hold something else, or nothing, or something from elsewhere in it."""
    which = draw(st.integers(0, len(BASES) - 1))
    document = copy.deepcopy(BASES[which])
    for _ in range(draw(st.integers(1, 4))):
        path = draw(st.sampled_from(PLACES[which]))
        try:
            node = document
            for step in path[:-1]:
                node = node[step]
            kind = draw(st.integers(0, 3))
            if kind == 0:
                del node[path[-1]]
            elif kind == 1:
                node[path[-1]] = copy.deepcopy(draw(st.sampled_from(JUNK)))
            elif kind == 2:
                node[path[-1]] = [node[path[-1]], node[path[-1]]]
            else:
                source: Any = BASES[which]
                for step in draw(st.sampled_from(PLACES[which])):
                    source = source[step]
                node[path[-1]] = copy.deepcopy(source)
        except (KeyError, IndexError, TypeError):
            continue
    return document


def check_any(document: Json, hook: str) -> None:
    body = json.dumps(document).replace('"#', "").replace('#"', "").encode()
    status, answer = hooks.call(kb(), service(hook), body, now=NOW)
    assert status in (200, 400, 412)
    if status == 200:
        assert faults(answer) == []
        json.dumps(answer, ensure_ascii=False).encode()
    else:
        assert outcome(answer)


@given(mutated(), st.sampled_from(list(hooks.HOOKS)))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_is_sent_gets_an_answer(document: Json, hook: str) -> None:
    check_any(document, document["hook"] if document.get("hook") in list(hooks.HOOKS) else hook)


@pytest.mark.deep
@given(mutated(), st.sampled_from(list(hooks.HOOKS)))
@settings(max_examples=5000, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_is_sent_gets_an_answer_at_length(document: Json, hook: str) -> None:
    check_any(document, document["hook"] if document.get("hook") in list(hooks.HOOKS) else hook)


@given(st.binary(max_size=300))
def test_any_bytes_get_an_answer(body: bytes) -> None:
    assert call(body, "order-sign")[0] == 400
    assert hooks.feedback(kb(), service("order-sign"), body)[0] == 400


# --- Feedback ------------------------------------------------------------------------------------------

ACCEPTED = {
    "card": "4e0a3a1e-3283-4575-ab82-028d55fe2719", "outcome": "accepted", "outcomeTimestamp": "2021-12-11T10:05:31Z",
    "acceptedSuggestions": [{"id": "e56e1945-20b3-4393-8503-a1a20fd73152"}],
}  # fmt: skip
OVERRIDDEN = {
    "card": "9368d37b-283f-44a0-93ea-547cebab93ed", "outcome": "overridden", "outcomeTimestamp": "2020-12-11T00:00:00.52Z",
    "overrideReason": {"reason": {"code": "d7ecf885", "system": "https://example.com/x"}, "userComment": "A comment."},
}  # fmt: skip
FEEDBACK = {"feedback": [ACCEPTED, OVERRIDDEN, {key: OVERRIDDEN[key] for key in ("card", "outcome", "outcomeTimestamp")}]}


@pytest.mark.parametrize("hook", list(hooks.HOOKS))
def test_feedback_is_accepted(hook: str) -> None:
    assert hooks.feedback(kb(), service(hook), encoded(FEEDBACK)) == (200, {})
    only_words = changed(FEEDBACK, "feedback", 1, "overrideReason", "reason")
    assert hooks.feedback(kb(), service(hook), encoded(only_words)) == (200, {})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("feedback",), ...),
        (("feedback",), []),
        (("feedback",), {}),
        (("feedback", 0), 5),
        (("feedback", 0, "card"), ...),
        (("feedback", 0, "card"), ""),
        (("feedback", 0, "outcome"), ...),
        (("feedback", 0, "outcome"), "ignored"),
        (("feedback", 0, "acceptedSuggestions"), ...),
        (("feedback", 0, "acceptedSuggestions"), []),
        (("feedback", 0, "acceptedSuggestions"), [5]),
        (("feedback", 0, "acceptedSuggestions", 0, "id"), ...),
        (("feedback", 0, "outcomeTimestamp"), ...),
        (("feedback", 0, "outcomeTimestamp"), "today"),
        (("feedback", 0, "outcomeTimestamp"), "2021-12-11T10:05:31"),
        (("feedback", 1, "overrideReason"), 5),
        (("feedback", 1, "overrideReason", "reason"), 5),
        (("feedback", 1, "overrideReason", "reason", "code"), ...),
        (("feedback", 1, "overrideReason", "reason", "system"), ...),
        (("feedback", 1, "overrideReason", "userComment"), 5),
    ],
)
def test_wrong_feedback_is_400(path: tuple[Any, ...], value: Any) -> None:
    status, answer = hooks.feedback(kb(), service("order-sign"), encoded(changed(FEEDBACK, *path, to=value)))
    assert status == 400
    assert outcome(answer)


def test_the_module_and_the_function_are_not_confused() -> None:
    """`hooks.feedback` is the function, whatever has been imported."""
    hooks.feedback(kb(), service("order-sign"), encoded(FEEDBACK))
    assert callable(hooks.feedback)
    assert RDFS

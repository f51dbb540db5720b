"""CDS Hooks 2.0: what a client gets, for every worked patient, and whatever it sends."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyoxigraph as ox
import pytest
from hooks_requests import (
    FOLDER,
    LOINC,
    NOW,
    RXNORM,
    SNOMED,
    answered,
    bundle,
    calcium,
    call,
    cards,
    changed,
    empty,
    encoded,
    kb,
    order,
    rendered,
    request,
    request_of,
    service,
    with_orders,
)
from knowledge_data import MODULES, loaded_with
from test_patients import CASES, read

import kbtool
from kbtool import hooks
from kbtool.fhir.coding import codings
from kbtool.hooks.needs import needed
from kbtool.hooks.prefetch import MAX_LENGTH, templates
from kbtool.namespaces import CG, RDF, SKOS, local_name

Json = dict[str, Any]

SAYABLE = [n for n in CASES if not n.startswith("Unread-")]  # FHIR states what can be read
ORDERED = [n for n in SAYABLE if "hasOrder" in (FOLDER / f"{n}.ttl").read_text(encoding="utf-8") and not read(n).get("refused")]
WORKED = ["P01", "P02", "P05", "P06", "P08", "P09", "P12", "P14", "P15", "P15b", "P16", "P18", "P20", "P22", "P24"]
SAMPLE = sorted({*WORKED, *CASES[::40]})


# --- Discovery -----------------------------------------------------------------------------------------


def test_discovery_describes_the_services() -> None:
    found = hooks.discovery(kb())["services"]
    assert [s["hook"] for s in found] == ["patient-view", "order-select", "order-sign"]
    assert len({s["id"] for s in found}) == 3
    for each in found:
        assert each["title"]
        assert each["description"]
        assert "never calls the FHIR server" in each["usageRequirements"]
        assert re.fullmatch(r"[a-z0-9-]+", each["id"])
        assert not list(empty(each))
    assert hooks.discovery(kb()) == hooks.discovery(kb())


def test_prefetch_uses_only_what_the_specification_recommends() -> None:
    """Section "Prefetch query restrictions": a read, or a search by patient, codes, status, with _sort and _count."""
    for template in templates(kb().knowledge):
        assert len(template.query) <= MAX_LENGTH
        if template.key == "patient":
            assert template.query == "Patient/{{context.patientId}}"
            continue
        kind, _, query = template.query.partition("?")
        assert re.fullmatch(r"[A-Z][A-Za-z]+", kind)
        parameters = dict(part.split("=", 1) for part in query.split("&"))
        assert parameters.keys() <= {"patient", "code", "status", "_sort", "_count"}
        assert parameters["patient"] == "{{context.patientId}}"
        assert template.query.count("{{") == 1
        assert not set(template.query) & set(' "<>#%')


def asked(base: kbtool.KnowledgeBase) -> set[str]:
    """Every code that the templates ask for, as system|code."""
    queries = [t.query for t in templates(base.knowledge) if "code=" in t.query]
    return {unquote(token) for q in queries for token in re.search(r"code=([^&]*)", q)[1].split(",")}  # type: ignore[index]


def test_every_code_of_what_the_rules_rest_on_is_asked_for() -> None:
    known = codings(kb().knowledge)
    classes = needed(kb().knowledge)
    open_world = [iri for iri in classes if known.kind(iri) in ("Observation", "Setting", "Finding")]
    wanted = {f"{c['system']}|{c['code']}" for iri in open_world for c in known.codes(iri)}
    assert wanted
    assert wanted <= asked(kb())
    assert asked(kb()) - wanted == {"https://w3id.org/kbtool/dialysis/|"}


def test_what_no_rule_rests_on_is_not_asked_for() -> None:
    names = {local_name(iri) for iri in needed(kb().knowledge)}
    assert "HeartRate" not in names
    assert f"{LOINC}|8867-4" not in asked(kb())
    assert {"SerumMagnesium", "Baclofen", "Haemodialysis", "HaemodialysisSession", "Twitch", "StopBaclofenOrder"} <= names
    assert {"PreDialysisWeight", "DryWeight"} <= names, "what a derived quantity is computed from is needed too"


def test_a_code_that_is_not_verified_is_not_asked_for() -> None:
    graph = kb().knowledge.graph
    false = ox.Literal("false", datatype=ox.NamedNode("http://www.w3.org/2001/XMLSchema#boolean"))
    doubtful = [q.subject.value for q in graph.quads_for_pattern(None, CG["verified"], false, None)]  # type: ignore[union-attr]
    assert doubtful
    codes = {f"{kb().knowledge.value(d, CG['codeSystem'])}|{kb().knowledge.value(d, SKOS['notation'])}" for d in doubtful}
    assert not codes & asked(kb())


def test_a_code_that_a_rule_newly_uses_is_asked_for(tmp_path: Path) -> None:
    """A rule that comes to rest on the heart rate, and a new code of magnesium: nothing else is edited."""
    space = "https://w3id.org/kbtool/dialysis/"
    rules = list(MODULES["guideline.ttl"])
    criterion = ox.NamedNode(f"{space}SymptomaticDialysisPatient")
    restriction, inner = ox.BlankNode(), ox.BlankNode()
    owl = "http://www.w3.org/2002/07/owl#"
    old = next(q for q in rules if q.subject == criterion and q.predicate.value == f"{owl}equivalentClass")
    rules.remove(old)
    members, rest = ox.BlankNode(), ox.BlankNode()
    for subject, predicate, value in (
        (criterion, f"{owl}equivalentClass", inner), (inner, RDF["type"].value, ox.NamedNode(f"{owl}Class")),
        (inner, f"{owl}intersectionOf", members), (members, RDF["first"].value, old.object), (members, RDF["rest"].value, rest),
        (rest, RDF["first"].value, restriction), (rest, RDF["rest"].value, RDF["nil"]),
        (restriction, RDF["type"].value, ox.NamedNode(f"{owl}Restriction")),
        (restriction, f"{owl}onProperty", CG["hasEligible"]),
        (restriction, f"{owl}someValuesFrom", ox.NamedNode(f"{space}HeartRate")),
    ):  # fmt: skip
        rules.append(ox.Quad(subject, ox.NamedNode(predicate), value))
    code = ox.NamedNode(f"{space}LOINC-new")
    vocabulary = [
        *MODULES["vocabulary.ttl"],
        ox.Quad(ox.NamedNode(f"{space}SerumMagnesium"), CG["hasCode"], code),
        ox.Quad(code, CG["codeSystem"], ox.NamedNode("http://example.org/lab")),
        ox.Quad(code, SKOS["notation"], ox.Literal("MG,1|x&y")),
        ox.Quad(code, CG["verified"], ox.Literal("true", datatype=ox.NamedNode("http://www.w3.org/2001/XMLSchema#boolean"))),
    ]
    changed_base = loaded_with({"guideline.ttl": rules, "vocabulary.ttl": vocabulary}, tmp_path)
    new = asked(changed_base) - asked(kb())
    assert f"{LOINC}|8867-4" in new
    query = next(t.query for t in templates(changed_base.knowledge) if "example.org/lab" in t.query)
    assert "http://example.org/lab|MG\\,1\\|x%26y" in query, "separators of FHIR and of URLs are escaped"


def test_a_long_list_of_codes_is_split() -> None:
    parts = [t for t in templates(kb().knowledge) if t.key.startswith("findings-")]
    assert len(parts) > 1
    assert all(len(t.query) > MAX_LENGTH / 2 for t in parts[:-1])


def test_what_counts_as_absent_is_asked_for_without_codes() -> None:
    """A condition or drug that is coded in another way must be seen as not read, not be left out."""
    queries = {t.key: t.query for t in templates(kb().knowledge)}
    for key in ("conditions", "procedures", "medication-requests", "medication-statements", "service-requests"):
        assert "code=" not in queries[key]


def test_another_guideline_has_its_own_services() -> None:
    other = kbtool.load(Path(__file__).parent / "second_guideline" / "root.ttl")
    found = hooks.discovery(other)["services"]
    assert [s["id"] for s in found] == ["asthma-patient-view", "asthma-order-select", "asthma-order-sign"]
    assert needed(other.knowledge)
    assert not any("dialysis" in iri for iri in needed(other.knowledge))
    document = changed(with_orders(hook="order-sign"), "prefetch", to={"conditions": None})
    status, answer = hooks.call(other, "asthma-order-sign", encoded(document), now=NOW)
    assert status == 200, answer
    assert hooks.call(other, service("order-sign"), encoded(document), now=NOW)[0] == 404


# --- Orders in draft -----------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", ["order-sign", "order-select"])
@pytest.mark.parametrize("name", ORDERED)
def test_a_hard_stop_is_a_critical_card_that_names_the_order(name: str, hook: str) -> None:
    """Both sides: a card for each hard stop that is expected of the patient, and for nothing else."""
    holding = read(name)["prohibitions"]["holds"]
    wanted = sorted(rule for rule, detail in holding.items() if detail.get("hardStop"))
    labels = {kb().knowledge.labels_by_name[rule]: rule for rule in holding}
    found = [card for card in answered(name, hook) if card["summary"].startswith("HARD STOP:")]
    stopped = sorted(rule for card in found for label, rule in labels.items() if card["summary"].endswith(f": {label}"))
    assert stopped == wanted
    drafts = {e["resource"]["id"]: e["resource"] for e in request(name, hook)["context"]["draftOrders"]["entry"]}
    for card in found:
        assert card["indicator"] == "critical"
        assert card["overrideReasons"]
        removed = [a["resourceId"] for s in card["suggestions"] for a in s["actions"] if a["type"] == "delete"]
        assert removed
        for reference in removed:
            kind, identifier = reference.split("/")
            assert drafts[identifier]["resourceType"] == kind
            display = drafts[identifier]["medicationCodeableConcept"]["coding"][0]["display"]
            assert display in card["summary"]
            assert f"({reference})" in card["detail"]


@pytest.mark.parametrize("name", ORDERED)
def test_what_can_be_overridden_is_a_conflict_and_not_removed(name: str) -> None:
    """A hard stop must never be what kills: the danger in forbidding the order comes first, and nothing is suggested."""
    document = read(name)
    expected = document.get("overridable")
    if expected is None:
        return
    found = [card for card in answered(name, "order-sign") if "a clinician must decide" in card["detail"].lower()]
    assert len(found) == len(expected)
    for card in found:
        assert card["indicator"] == "critical"
        assert card["summary"].startswith("CONFLICT: ")
        assert "suggestions" not in card
        assert card["overrideReasons"]
        assert re.search(r"\*\*SO-\d+ \(critical\):\*\*", card["detail"].split("Order:")[0])


@pytest.mark.parametrize("name", ORDERED)
def test_a_possible_hard_stop_is_critical_and_not_removed(name: str) -> None:
    document = read(name)
    expected = document.get("hardStopPossible")
    if expected is None:
        return
    unsure = [p for p in expected if p not in document.get("overridable", [])]
    found = [card for card in answered(name, "order-sign") if card["summary"].startswith("HARD STOP IF")]
    assert len(found) == len(unsure)
    assert all(card["indicator"] == "critical" for card in found)
    assert not [a for card in found for s in card.get("suggestions", ()) for a in s["actions"] if a["type"] == "delete"]


def test_intravenous_magnesium_as_hospitals_code_it() -> None:
    (card,) = cards(with_orders(order()))
    assert card["summary"] == "HARD STOP: Magnesium sulfate 2 g IV: No intravenous magnesium during dialysis"
    assert card["indicator"] == "critical"
    assert card["source"]["topic"]["code"] == "S18"
    assert card["source"]["url"] == "https://w3id.org/kbtool/dialysis/S18"
    assert "S16, S18, S19" in card["source"]["label"]
    assert "(MedicationRequest/103)" in card["detail"]
    (suggestion,) = card["suggestions"]
    assert suggestion["actions"] == [
        {"type": "delete", "description": "Remove the order: Magnesium sulfate 2 g IV", "resourceId": "MedicationRequest/103"}
    ]


def test_the_same_order_after_the_session_is_an_alert() -> None:
    document = with_orders(order())
    for entry in document["prefetch"]["procedures"]["entry"]:
        if entry["resource"]["code"]["coding"][0]["code"] == "HaemodialysisSession":
            entry["resource"]["performedPeriod"]["end"] = "2026-02-10T11:59:00Z"
            entry["resource"]["status"] = "completed"
    (card, *_) = cards(document)
    assert card["indicator"] == "warning"
    assert card["summary"].startswith("Order alert: Magnesium sulfate 2 g IV")
    assert not [a for s in card.get("suggestions", ()) for a in s["actions"] if a["type"] == "delete"]


def test_the_time_of_the_call_decides() -> None:
    """The session runs since 11:15 and has no end: long after that it is unknown whether it still runs. Before that the
    record speaks of the future, and nothing is checked."""
    assert cards(with_orders(order()), NOW)[0]["summary"].startswith("HARD STOP: ")
    earlier = cards(with_orders(order()), NOW - timedelta(hours=1))
    assert [(c["indicator"], c["summary"].partition(":")[0]) for c in earlier] == [("critical", "NOT CHECKED")]
    later = cards(with_orders(order()), NOW + timedelta(hours=11))
    assert later[0]["summary"].startswith("HARD STOP IF what is not known is so")


def test_magnesium_by_mouth_is_not_stopped() -> None:
    mouth = [{"route": {"coding": [{"system": SNOMED, "code": "26643006", "display": "Oral route"}]}}]
    assert cards(with_orders(order(dosageInstruction=mouth))) == []


@pytest.mark.parametrize("route", [None, [{"route": {"text": "IV"}}], [{}], [{"route": {"coding": [{"code": "IV"}]}}]])
def test_an_order_that_cannot_be_read_is_not_passed_over(route: Any) -> None:
    """Magnesium, and nobody said how: it is not checked, and the card says so and names it."""
    (card,) = cards(with_orders(order(dosageInstruction=route)))
    assert card["summary"].startswith("NOT CHECKED: Magnesium sulfate 2 g IV")
    assert card["indicator"] == "warning"
    assert "MedicationRequest/103" in card["detail"]


@pytest.mark.parametrize("status", ["stopped", "cancelled", "on-hold", "entered-in-error"])
def test_a_known_drug_with_another_status_is_not_passed_over(status: str) -> None:
    """Whoever signs the end of a drug does not get silence."""
    concept = {"coding": [{"system": RXNORM, "code": "1292", "display": "baclofen"}]}
    found = cards(with_orders(order(status=status, medicationCodeableConcept=concept)))
    assert [c["summary"].partition(":")[0] for c in found] == ["NOT CHECKED"]


def test_an_order_that_is_none_of_its_business_gives_no_card() -> None:
    other = {"coding": [{"system": RXNORM, "code": "161", "display": "acetaminophen"}]}
    assert cards(with_orders(order(medicationCodeableConcept=other))) == []
    assert cards(with_orders()) == []
    assert cards(with_orders({"resourceType": "NutritionOrder", "id": "n", "status": "draft"})) == []


def test_what_is_being_written_may_be_incomplete() -> None:
    """By the hook it is an order in draft for the patient in context, where it does not say so itself."""
    for missing in ("subject", "status", "intent"):
        (card,) = cards(with_orders(order(**{missing: None})))
        assert card["summary"].startswith("HARD STOP: Magnesium")


@pytest.mark.parametrize(
    "subject", [{}, {"display": "Mrs X"}, {"identifier": {"value": "1"}}, {"reference": "Patient/P22/_history/2"}]
)
def test_a_subject_may_be_said_in_other_ways(subject: Json) -> None:
    (card,) = cards(with_orders(order(subject=subject)))
    assert card["summary"].startswith("HARD STOP: Magnesium")


@pytest.mark.parametrize("reference", ["P22", "#p", "patient/P22", "urn:uuid:0e1c5d4e-0000-4000-8000-000000000001", ""])
def test_an_order_for_nobody_is_not_passed_over(reference: str) -> None:
    (card,) = cards(with_orders(order(subject={"reference": reference})))
    assert card["summary"].startswith("NOT CHECKED: Magnesium sulfate 2 g IV")


def test_an_order_without_an_id_is_stopped_and_cannot_be_removed() -> None:
    for url in (None, "urn:uuid:0e1c5d4e-0000-4000-8000-000000000001"):
        document = with_orders(order(None))
        if url:
            document["context"]["draftOrders"]["entry"][0]["fullUrl"] = url
        (card,) = cards(document)
        assert card["summary"].startswith("HARD STOP: Magnesium")
        assert "suggestions" not in card


def test_several_orders_are_named_and_removed_one_by_one() -> None:
    second = order("104") | {"medicationCodeableConcept": {"coding": [{"system": RXNORM, "code": "6585"}], "text": "Second bag"}}
    (card,) = cards(with_orders(order(), second))
    assert "Magnesium sulfate 2 g IV; Second bag" in card["summary"]
    assert [a["resourceId"] for s in card["suggestions"] for a in s["actions"]] == [
        "MedicationRequest/103",
        "MedicationRequest/104",
    ]
    assert card["selectionBehavior"] == "any"


def test_an_order_in_draft_replaces_its_copy_in_the_record() -> None:
    document = with_orders(order())
    document["prefetch"]["medication-requests"] = bundle([order(), order("99", status="completed")])
    (card,) = cards(document)
    assert card["detail"].count("Order:") == 1


def test_an_active_order_is_stopped_but_not_removed() -> None:
    document = with_orders()
    document["prefetch"]["medication-requests"] = bundle([order(status="active")])
    (card, *_) = cards(document)
    assert card["summary"].startswith("HARD STOP: Intravenous magnesium order")
    assert "suggestions" not in card


def test_r5_orders_are_read() -> None:
    concept = {"concept": order()["medicationCodeableConcept"]}
    (card,) = cards(with_orders(order(medicationCodeableConcept=None, medication=concept)))
    assert card["summary"].startswith("HARD STOP: Magnesium sulfate 2 g IV")


def test_select_speaks_of_what_was_selected_and_of_every_hard_stop() -> None:
    """Calcium before magnesium is an alert: shown where it is selected. The hard stop is shown in any case."""
    both = (order("mg"), calcium("ca"))
    chosen = cards(with_orders(*both, hook="order-select", selections=["MedicationRequest/ca"]))
    assert [c["summary"].partition(":")[0] for c in chosen][:2] == ["HARD STOP", "Order alert"]
    other = cards(with_orders(*both, hook="order-select", selections=["MedicationRequest/mg"]))
    assert [c["summary"].partition(":")[0] for c in other] == ["HARD STOP"]


@pytest.mark.parametrize(
    "selections", [["ca"], ["https://ehr.example.org/fhir/MedicationRequest/ca"], ["MedicationRequest/unknown"], ["Task/ca"]]
)
def test_a_selection_that_is_not_found_hides_nothing(selections: list[str]) -> None:
    found = cards(with_orders(calcium("ca"), hook="order-select", selections=selections))
    assert [c["summary"].partition(":")[0] for c in found] == ["Order alert"]


def test_an_alert_offers_the_measurement_that_the_rule_waits_for() -> None:
    """P05: calcium is ordered and magnesium is not known: the one safe thing is to measure it."""
    document = request("P05", "order-sign")
    document["context"]["draftOrders"] = bundle([calcium("ca") | {"subject": {"reference": "Patient/P05"}}])
    card = next(c for c in cards(document) if c["summary"].startswith("Order alert: Calcium gluconate"))
    (suggestion,) = card["suggestions"]
    (action,) = suggestion["actions"]
    assert action["type"] == "create"
    made = action["resource"]
    assert (made["resourceType"], made["status"], made["intent"]) == ("ServiceRequest", "draft", "order")
    assert made["subject"] == {"reference": "Patient/P05"}
    assert {"system": LOINC, "code": "19123-9"}.items() <= made["code"]["coding"][0].items()


def deferoxamine(aluminium: str | None) -> Json:
    """A patient with an order in draft for deferoxamine, and perhaps a plasma aluminium."""
    result = (
        f'cg:hasObservation [ a dk:PlasmaAluminium ; cg:value {aluminium} ; cg:unit "ug/L" ; '
        'cg:time "2026-02-10T06:40:00Z"^^xsd:dateTime ] ;'
    )
    turtle = f"""@prefix cg: <https://w3id.org/kbtool/cg/> . @prefix dk: <https://w3id.org/kbtool/dialysis/> .
        @prefix xsd: <http://www.w3.org/2001/XMLSchema#> . @prefix ex: <https://example.org/patient/> .
        ex:D a cg:Patient ; cg:hasTreatment [ a dk:Haemodialysis ] ; {result if aluminium else ""}
          cg:hasOrder [ a dk:DeferoxamineOrder ] ."""
    return request_of(turtle.encode(), "D", "order-sign")


@pytest.mark.parametrize("aluminium", ["201", "200", None])
def test_a_caution_on_the_patient_is_shown_where_the_order_raises_it(aluminium: str | None) -> None:
    """It touches no class of orders; that the order is the reason for it is enough."""
    (card,) = [c for c in cards(deferoxamine(aluminium)) if c["source"]["topic"]["code"] == "SO-15"]
    assert card["summary"].startswith("Deferoxamine order: ")
    assert card["indicator"] == "warning"
    assert card["overrideReasons"]


def test_what_is_not_known_to_be_safe_is_not_passed_over_in_silence() -> None:
    """Magnesium for a patient whose magnesium may be high: known to be low, and not known."""
    document = with_orders(order())
    assert not [c for c in cards(document) if c["source"]["topic"]["code"] == "SO-19"]
    (card,) = [c for c in cards(changed(document, "prefetch", "observations-local")) if c["summary"].startswith("NOT EXCLUDED")]
    assert card["indicator"] == "warning"
    assert "Magnesium sulfate 2 g IV" in card["summary"]
    assert "SO-19 (high)" in rendered(card["detail"])
    assert "cannot be excluded without Serum magnesium" in rendered(card["detail"])


def test_what_waits_carries_its_conflicts() -> None:
    card = next(c for c in answered("P01", "patient-view") if c["summary"].startswith("Not yet"))
    assert "Start baclofen (CONFLICT: SO-01 avoid): waits for" in rendered(card["detail"])
    assert "Give midodrine before dialysis: waits for" in rendered(card["detail"])


def test_no_band_is_no_reassurance() -> None:
    """P18: an aluminium of 85 ug/L lies in no band of the source, and a warning says so."""
    card = next(c for c in answered("P18", "patient-view") if c["summary"].startswith("What the facts mean"))
    assert card["indicator"] == "warning"
    assert "SO-14 (high)" in rendered(card["detail"])


@pytest.mark.parametrize("name", WORKED)
def test_opening_a_chart_says_what_the_facts_mean(name: str) -> None:
    shown = "".join(rendered(c["detail"]) for c in answered(name, "patient-view"))
    for rule in read(name)["assessments"]["holds"]:
        assert kb().knowledge.labels_by_name[rule] in shown + "".join(c["summary"] for c in answered(name, "patient-view"))


def test_a_measurement_is_offered_once() -> None:
    """What two cards could offer is offered by the graver one: nobody orders it twice."""
    for name in SAMPLE:
        if read(name).get("refused"):
            continue
        made = [
            a["resource"]["code"]["text"]
            for c in answered(name, "patient-view")
            for s in c.get("suggestions", ())
            for a in s["actions"]
        ]
        assert len(made) == len(set(made))


def test_quinine_is_warned_of_out_of_scope_too() -> None:
    (card,) = answered("P24", "order-sign")
    assert card["indicator"] == "warning"
    assert card["summary"].startswith("CONFLICT: Quinine order: ")
    assert card["source"]["topic"]["code"] == "SO-20"


# --- Opening a chart -----------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", list(hooks.HOOKS))
@pytest.mark.parametrize("name", SAMPLE)
def test_cards_are_as_the_specification_wants_them(name: str, hook: str) -> None:
    if read(name).get("refused"):
        return
    found = answered(name, hook)
    ranks = [("critical", "warning", "info").index(card["indicator"]) for card in found]
    assert ranks == sorted(ranks)
    assert len(found) <= 10
    assert "No clinician has approved this content" in "".join(c["detail"] for c in found) or not found


@pytest.mark.parametrize("name", WORKED)
def test_opening_a_chart_says_all_that_is_recommended(name: str) -> None:
    document = read(name)
    wanted = [kb().knowledge.labels_by_name[r] for r in document["recommendations"].get("recommended", [])]
    detail = "".join(card["detail"] for card in answered(name, "patient-view") if card["summary"].startswith("To do"))
    text = rendered(detail)
    assert all(label in text for label in wanted)
    blocked = [kb().knowledge.labels_by_name[r] for r in document["recommendations"].get("blocked", {})]
    for label in blocked:
        assert label in "".join(
            rendered(c["detail"]) for c in answered(name, "patient-view") if c["summary"].startswith("Not yet")
        )


@pytest.mark.parametrize("name", CASES)
def test_an_emergency_is_critical_on_every_hook(name: str) -> None:
    document = read(name)
    if document.get("refused") or "emergencies" not in document:
        return
    for hook in hooks.HOOKS:
        found = [c for c in answered(name, hook) if c["summary"].startswith("EMERGENCY:")]
        assert len(found) == len(document["emergencies"])
        assert all(c["indicator"] == "critical" for c in found)


def test_emergencies_come_first() -> None:
    found = answered("P20", "patient-view")
    assert found[0]["summary"] == "EMERGENCY: Acute aluminium neurotoxicity suspected"


def test_a_feared_emergency_is_a_warning() -> None:
    found = answered("Acute-one-sign-aluminium-unknown", "patient-view")
    assert found[0]["summary"].startswith("EMERGENCY NOT EXCLUDED: ")
    assert found[0]["indicator"] == "warning"
    assert [s["label"] for s in found[0]["suggestions"]] == ["Measure plasma aluminium"]


def test_few_cards_for_a_quiet_patient_and_none_out_of_scope() -> None:
    assert len(answered("P09", "patient-view")) <= 3
    assert cards(request("P24", "patient-view")) == [], "the order in draft is not part of this hook"
    (card,) = answered("P24", "patient-view")
    assert card["summary"].startswith("CONFLICT with other evidence: Quinine")


def test_what_is_missing_can_be_ordered_in_one_go() -> None:
    card = next(c for c in answered("P14", "patient-view") if c["summary"].startswith("To do"))
    labels = ["Measure serum magnesium", "Measure ionised calcium", "Measure potassium", "Measure phosphate"]
    assert [s["label"] for s in card["suggestions"]] == labels
    assert card["selectionBehavior"] == "any"


def test_missing_numbers_are_not_filled_in() -> None:
    detail = next(c["detail"] for c in answered("P14", "patient-view") if c["summary"].startswith("To do"))
    assert "not given by the source" in rendered(detail)


# --- Identity ------------------------------------------------------------------------------------------


def test_the_same_request_gives_the_same_answer_and_uuids_are_stable() -> None:
    first, again = call(with_orders(order())), call(with_orders(order()))
    assert first == again
    other_call = changed(with_orders(order()), "hookInstance", to="00000000-0000-4000-8000-000000000000")
    assert [c["uuid"] for c in call(other_call)[1]["cards"]] == [c["uuid"] for c in first[1]["cards"]]
    other_order = call(with_orders(order("104")))[1]["cards"][0]["uuid"]
    assert other_order != first[1]["cards"][0]["uuid"]


def test_other_patients_have_other_uuids() -> None:
    assert not {c["uuid"] for c in answered("P01", "patient-view")} & {c["uuid"] for c in answered("P02", "patient-view")}


def test_override_reasons_come_from_the_ontology() -> None:
    (card,) = cards(with_orders(order()))
    known = kb().knowledge
    wanted = sorted(known.instances(CG["OverrideReason"]), key=lambda iri: int(known.value(iri, CG["rank"]) or 0))
    assert len(wanted) > 2
    assert [r["system"] + r["code"] for r in card["overrideReasons"]] == wanted
    assert [r["display"] for r in card["overrideReasons"]] == [known.labels[iri] for iri in wanted]

"""Answers as FHIR: valid by FHIR's own definitions, and nothing that must not be done looks like something to do."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from functools import cache
from pathlib import Path
from typing import Any

import golden
import pytest
from fhir_rules import actions, broken, references
from hooks_requests import encoded, request
from test_patients import CASES, FOLDER

import kbtool
from kbtool import engine
from kbtool.fhir.coding import codings
from kbtool.fhir.read import loads, read_resources
from kbtool.fhir.scribe import fhir_reference
from kbtool.fhir.write import bundle, pieces
from kbtool.namespaces import CG, SKOS

Json = dict[str, Any]

WORKED = ["P01", "P02", "P05", "P06", "P08", "P09", "P12", "P14", "P15", "P15b", "P16", "P18", "P20", "P22", "P24"]
SAMPLE = sorted({*WORKED, *CASES[::25]})
AS_OF = "2026-02-10T12:00:00Z"
HEAD = """@prefix cg: <https://w3id.org/kbtool/cg/> . @prefix dk: <https://w3id.org/kbtool/dialysis/> .
@prefix xsd: <http://www.w3.org/2001/XMLSchema#> . @prefix ex: <https://example.org/patient/> .\n"""


@pytest.fixture(scope="module")
def kb() -> kbtool.KnowledgeBase:
    return kbtool.load()


@cache
def made(name: str) -> tuple[Json, Json]:
    """The answer for a golden patient as JSON and as FHIR."""
    expected = json.loads((FOLDER / f"{name}.expected.json").read_text(encoding="utf-8"))
    kb = _kb()
    result = kb.assess(FOLDER / f"{name}.ttl", as_of=expected["asOf"])
    return result.to_json()["patients"][0], bundle(kb, result)


@cache
def _kb() -> kbtool.KnowledgeBase:
    return kbtool.load()


def of(found: Json, kind: str) -> list[Json]:
    return [e["resource"] for e in found["entry"] if e["resource"]["resourceType"] == kind]


def one(found: Json, kind: str) -> Json:
    resources = of(found, kind)
    assert len(resources) == 1, f"{len(resources)} {kind}"
    return resources[0]


def own_code(resource: Json) -> str:
    return str(resource["code"]["coding"][0]["code"])


def said(resource: Json) -> str:
    return json.dumps(resource, ensure_ascii=False)


def assess(turtle: str) -> Json:
    return bundle(_kb(), _kb().assess((HEAD + turtle).encode(), as_of=AS_OF))


@pytest.mark.parametrize("name", SAMPLE)
def test_fhir_accepts_it(name: str) -> None:
    assert broken(made(name)[1]) == []


@pytest.mark.deep
def test_fhir_accepts_every_golden_patient(kb: kbtool.KnowledgeBase) -> None:
    for name in CASES:
        assert broken(made(name)[1]) == [], name


def test_the_rules_notice_what_is_wrong() -> None:
    """The rules that the output is held against can fail."""
    good = json.dumps(made("P05")[1])

    def changed(old: str, new: str) -> list[str]:
        assert old in good
        return broken(json.loads(good.replace(old, new, 1)))

    assert changed('"status": "data-required"', '"status": "maybe"')
    assert changed('"intent": "proposal"', '"intention": "proposal"')
    assert changed('"moduleCanonical"', '"moduleCanonicalX"')
    assert changed('"relationship": "after-end"', '"relationship": "later"')
    assert changed('"severity": "high"', '"severity": "critical"')
    assert changed('"actionId": "action-', '"actionId": "axtion-')
    assert changed('"performer": {"reference": "urn:uuid:', '"performer": {"reference": "urn:uuid:0')


@pytest.mark.parametrize("name", SAMPLE)
def test_every_part_of_the_answer_is_there(name: str) -> None:
    answer, found = made(name)
    if answer.get("refused"):
        return
    issues = {r["reference"]: r for r in of(found, "DetectedIssue")}
    for entry in [*answer["prohibitions"], *answer["cautions"]]:
        status = "final" if entry["state"] == "holds" else "preliminary"
        assert issues[entry["iri"]]["status"] == status
        assert (issues[entry["iri"]]["detail"].startswith("NOT EXCLUDED")) == (status == "preliminary")
    assert len(issues) == len(answer["prohibitions"]) + len(answer["cautions"])
    requests = {r["instantiatesUri"][0]: r for r in of(found, "ServiceRequest")}
    assert requests.keys() == {r["iri"] for r in answer["recommendations"]}
    observations = {own_code(r): r for r in of(found, "Observation")}
    for entry in answer["assessments"]:
        assert (observations[entry["name"]].get("valueBoolean") is True) == (entry["state"] == "holds")
        assert ("dataAbsentReason" in observations[entry["name"]]) == (entry["state"] != "holds")
    assert len(observations) == len(answer["assessments"])
    assert {own_code(f) for f in of(found, "Flag")} == {a["name"] for a in answer["assessments"] if a["emergency"]}
    lacking = [d["codeFilter"][0]["code"][0]["code"] for d in one(found, "GuidanceResponse").get("dataRequirement", [])]
    assert lacking == answer["missing"]


@pytest.mark.parametrize("name", SAMPLE)
def test_what_must_not_be_done_cannot_be_taken_for_something_to_do(name: str) -> None:
    """Every place that a client may show alone says the status: the group, the title, the prefix, the proposal."""
    answer, found = made(name)
    requests = {f"urn:uuid:{r['id']}": r for r in of(found, "ServiceRequest")}
    statuses = {r["iri"]: r["status"] for r in answer["recommendations"]}
    seen = set()
    for plan in of(found, "RequestGroup"):
        assert (plan["intent"], plan["status"]) == ("proposal", "draft")
        for group in plan["action"]:
            for action in group["action"]:
                request = requests[action["resource"]["reference"]]
                status = statuses[request["instantiatesUri"][0]]
                seen.add(request["instantiatesUri"][0])
                assert group["id"] == f"group-{status}"
                assert request["intent"] == "proposal"
                assert (request["status"] == "draft") == (status == "recommended")
                assert request["status"] != "active"
                assert request.get("doNotPerform", False) == (status == "contraindicated")
                for title in (action["title"], action["resource"]["display"], request["code"]["text"]):
                    assert title.startswith(status.upper()) == (status != "recommended")
                assert action["prefix"] == status.upper()
                assert bool(action.get("condition")) == (status in ("blocked", "undetermined"))
    assert seen == statuses.keys()


def test_order_comes_from_the_prerequisites() -> None:
    """P05: nothing about calcium or potassium before magnesium is known, and that by measuring it."""
    answer, found = made("P05")
    plan = one(found, "RequestGroup")
    titles = {a["id"]: a["code"][0]["coding"][0]["code"] for a in actions(plan) if "resource" in a}
    after = {
        titles[a["id"]]: [titles[r["actionId"]] for r in a.get("relatedAction", ())] for a in actions(plan) if a["id"] in titles
    }
    assert after["CorrectHypokalaemia"] == ["MeasureSerumMagnesium"]
    assert after["MeasureSerumMagnesium"] == []
    named = {r["name"]: r for r in answer["recommendations"]}
    for name, openers in after.items():
        assert openers == [n for n in named if n in named[name]["openedBy"]]
    for action in actions(plan):
        for condition in action.get("condition", ()):
            assert condition["expression"]["expression"] == ("false" if condition["kind"] == "start" else "{}")
    starts = {titles[a["id"]]: a["condition"][0] for a in actions(plan) if titles.get(a["id"]) == "CorrectHypokalaemia"}
    assert starts["CorrectHypokalaemia"]["expression"]["reference"].endswith("/MagnesiumAdequate")


def test_documentation_names_statements_and_references() -> None:
    plan = one(made("P05")[1], "RequestGroup")
    action = next(a for a in actions(plan) if a["code"][0]["coding"][0]["code"] == "MeasureSerumMagnesium")
    cited = {d["label"]: d for d in action["documentation"]}
    assert {"S01", "S02", "S04"} <= cited.keys()
    assert cited["S01"]["url"] == "https://w3id.org/kbtool/dialysis/S01"
    assert "Muscle Jerking and Twitching" in cited["S01"]["citation"]


def test_a_hard_stop_implicates_the_order() -> None:
    answer, found = made("P22")
    issue = next(r for r in of(found, "DetectedIssue") if "hardStop" in {c["code"] for c in r["code"]["coding"]})
    order = next(p for p in answer["prohibitions"] if p["hardStop"])["orders"][0]
    assert issue["severity"] == "high"
    assert issue["status"] == "final"
    assert issue["detail"].startswith("HARD STOP: do not carry out this order")
    assert [i["identifier"]["value"] for i in issue["implicated"]] == [order["fact"]]
    assert "S18" in issue["detail"]


def test_a_standing_prohibition_is_no_hard_stop() -> None:
    """P20 has no order: the ban on intravenous magnesium stands, and stops nothing."""
    found = made("P20")[1]
    issue = next(r for r in of(found, "DetectedIssue") if own_code(r) == "NoIntravenousMagnesiumDuringDialysis")
    assert {c["code"] for c in issue["code"]["coding"]} == {"NoIntravenousMagnesiumDuringDialysis"}
    assert issue["detail"].startswith("DO NOT")
    assert "implicated" not in issue


def test_emergencies_come_first() -> None:
    found = made("P20")[1]
    kinds = [e["resource"]["resourceType"] for e in found["entry"]]
    assert kinds[:2] == ["GuidanceResponse", "Flag"]
    assert of(found, "Flag")[0]["code"]["text"].startswith("EMERGENCY: Acute aluminium")


def test_a_feared_emergency_is_not_called_one() -> None:
    """Jerks and one sign, aluminium unknown: it may be the emergency, and the flag says that it is not excluded."""
    found = made("Acute-one-sign-aluminium-unknown")[1]
    assert of(found, "Flag")[0]["code"]["text"].startswith("EMERGENCY NOT EXCLUDED")
    assert one(found, "GuidanceResponse")["status"] == "data-required"


def test_the_conflict_of_a_caution_is_marked() -> None:
    found = made("P15")[1]
    issue = next(r for r in of(found, "DetectedIssue") if own_code(r) == "SO-01")
    assert "makesConflict" in {c["code"] for c in issue["code"]["coding"]}
    assert issue["severity"] == "high"
    requests = {f"urn:uuid:{r['id']}": r for r in of(found, "ServiceRequest")}
    implicated = [requests[i["reference"]]["instantiatesUri"][0] for i in issue["implicated"] if "reference" in i]
    assert "https://w3id.org/kbtool/dialysis/StartBaclofen" in implicated
    start = next(r for r in requests.values() if r["instantiatesUri"][0].endswith("/StartBaclofen"))
    assert start["code"]["text"] == "CONFLICT: Start baclofen"


@pytest.mark.parametrize(("name", "status"), [("P01", "data-requested"), ("P22", "data-required"), ("P24", "data-requested")])
def test_status_of_the_response(name: str, status: str) -> None:
    assert one(made(name)[1], "GuidanceResponse")["status"] == status


@pytest.mark.parametrize("name", SAMPLE)
def test_the_status_says_what_hangs_on_the_missing(name: str) -> None:
    answer, found = made(name)
    status = one(found, "GuidanceResponse")["status"]
    if answer.get("refused"):
        assert status == "failure"
        return
    assert (status == "success") == (not answer["missing"])
    if any(r["status"] == "undetermined" for r in answer["recommendations"]):
        assert status == "data-required"


def test_success_where_nothing_is_missing(kb: kbtool.KnowledgeBase) -> None:
    result = kb.assess((HEAD + "ex:A a cg:Patient ; cg:hasFinding [ a dk:Twitch ] .").encode(), as_of=AS_OF)
    data = result.patients["https://example.org/patient/A"].data
    data["missing"], data["cautions"] = [], []
    assert one(bundle(kb, result), "GuidanceResponse")["status"] == "success"


def test_a_refused_patient() -> None:
    """Nothing is derived, and nothing in the Bundle looks as if it had been."""
    found = assess(
        "ex:A a cg:Patient ; cg:hasTreatment [ a dk:Haemodialysis ; cg:start 5 ] ; cg:hasOrder [ a dk:QuinineOrder ] ."
    )
    assert broken(found) == []
    response = one(found, "GuidanceResponse")
    assert response["status"] == "failure"
    assert "result" not in response
    assert any("orders included" in note["text"] for note in response["note"])
    outcome = one(found, "OperationOutcome")
    assert {i["severity"] for i in outcome["issue"]} == {"error"}
    assert response["evaluationMessage"] == [{"reference": f"urn:uuid:{outcome['id']}"}]
    assert not of(found, "DetectedIssue")
    assert not of(found, "RequestGroup")


def test_what_was_set_aside_is_told() -> None:
    """17 mg/dL of magnesium is outside the plausible range: set aside, and missing."""
    found = assess(
        "ex:A a cg:Patient ; cg:hasTreatment [ a dk:Haemodialysis ] ; cg:hasFinding [ a dk:Twitch ] ; cg:hasObservation "
        '[ a dk:SerumMagnesium ; cg:value 17 ; cg:unit "mg/dL" ; cg:time "2026-02-10T06:40:00Z"^^xsd:dateTime ] .'
    )
    assert broken(found) == []
    told = [i for i in one(found, "OperationOutcome")["issue"] if i["details"]["text"].startswith("set aside")]
    assert [i["severity"] for i in told] == ["warning"]
    lacking = one(found, "GuidanceResponse")["dataRequirement"]
    magnesium = next(d for d in lacking if d["codeFilter"][0]["code"][0]["code"] == "SerumMagnesium")
    assert magnesium["type"] == "Observation"
    assert ("http://loinc.org", "19123-9") in {(c["system"], c["code"]) for c in magnesium["codeFilter"][0]["code"]}


def test_a_stale_result_is_named() -> None:
    told = one(made("P06")[1], "OperationOutcome")["issue"]
    assert any("too old" in issue["details"]["text"] for issue in told)


def test_out_of_scope_is_no_all_clear() -> None:
    found = made("P24")[1]
    response = one(found, "GuidanceResponse")
    assert any(note["text"].startswith("OUT OF SCOPE") for note in response["note"])
    assert any("OUT OF SCOPE" in issue["details"]["text"] for issue in one(found, "OperationOutcome")["issue"])
    assert not of(found, "RequestGroup")
    assert any(own_code(r) == "SO-20" for r in of(found, "DetectedIssue"))


def test_what_belongs_to_nobody_is_told(kb: kbtool.KnowledgeBase) -> None:
    result = kb.assess((HEAD + "ex:A a cg:Patient . ex:lost a dk:Twitch .").encode(), as_of=AS_OF)
    found = bundle(kb, result)
    assert broken(found) == []
    assert any("ex" in i["diagnostics"] and "lost" in i["diagnostics"] for o in of(found, "OperationOutcome") for i in o["issue"])


@pytest.mark.parametrize("name", WORKED)
def test_provenance_covers_everything(name: str, kb: kbtool.KnowledgeBase) -> None:
    answer, found = made(name)
    provenance = one(found, "Provenance")
    targets = {t["reference"] for t in provenance["target"]}
    others = {e["fullUrl"] for e in found["entry"]} - {f"urn:uuid:{provenance['id']}"}
    apart = {f"urn:uuid:{one(found, kind)['id']}" for kind in ("Library", "Device")}
    assert targets == others - apart
    entries = [e for k in ("recommendations", "prohibitions", "assessments", "cautions") for e in answer[k]]
    facts = {f["fact"] for e in entries for f in e["because"]}
    sources = {e["what"]["identifier"]["value"] for e in provenance["entity"] if e["role"] == "source"}
    assert facts <= sources
    library = one(found, "Library")
    assert library["identifier"][0]["value"] == kb.about["sha256"]
    assert {"reference": f"urn:uuid:{library['id']}"}.items() <= provenance["entity"][0]["what"].items()
    assert provenance["agent"][0]["who"]["reference"] == f"urn:uuid:{one(found, 'Device')['id']}"


def test_the_module_is_the_canonical_of_the_knowledge_base(kb: kbtool.KnowledgeBase) -> None:
    response = one(made("P01")[1], "GuidanceResponse")
    assert response["moduleCanonical"] == f"{kb.about['iri']}|{kb.about['version']}"


def test_identifiers_are_deterministic(kb: kbtool.KnowledgeBase) -> None:
    first, again, later = (
        bundle(kb, kb.assess(FOLDER / "P22.ttl", as_of=moment)) for moment in (AS_OF, AS_OF, "2026-02-10T12:00:01Z")
    )
    assert first == again
    ids = [{e["fullUrl"] for e in found["entry"]} for found in (first, later)]
    shared = {f"urn:uuid:{one(first, kind)['id']}" for kind in ("Library", "Device")}
    assert ids[0] & ids[1] == shared


def test_patients_and_facts_from_fhir_are_referred_to_as_there() -> None:
    assert fhir_reference("https://w3id.org/kbtool/facts/Patient/12") == "Patient/12"
    assert fhir_reference("https://w3id.org/kbtool/facts/Observation/bp#component[1]") == "Observation/bp"
    assert fhir_reference("https://ehr.example.org/fhir/Observation/a-1.b") == "https://ehr.example.org/fhir/Observation/a-1.b"
    assert fhir_reference("urn:uuid:0e1c") == "urn:uuid:0e1c"
    assert fhir_reference("https://example.org/patient/P22") is None
    assert fhir_reference("https://w3id.org/kbtool/genid/5") is None


@pytest.mark.parametrize("name", WORKED)
def test_the_narrative_is_xhtml_and_complete(name: str) -> None:
    answer, found = made(name)
    div = ElementTree.fromstring(one(found, "GuidanceResponse")["text"]["div"])
    shown = "".join(div.itertext())
    assert div.tag == "{http://www.w3.org/1999/xhtml}div"
    assert "No clinician has approved this content" in shown
    for entry in answer["recommendations"]:
        if entry["status"] == "recommended":
            assert entry["name"] in shown


def test_what_a_record_says_cannot_become_markup() -> None:
    found = assess(
        "ex:A a cg:Patient ; cg:hasTreatment [ a dk:Haemodialysis ] ; cg:hasFinding [ a dk:Twitch ] ; cg:hasObservation "
        '[ a dk:SerumMagnesium ; cg:value 1.9 ; cg:unit "<script>\\u0001&" ; cg:time "2026-02-10T06:40:00Z"^^xsd:dateTime ] .'
    )
    assert broken(found) == []
    div = one(found, "GuidanceResponse")["text"]["div"]
    assert "<script>" not in div
    ElementTree.fromstring(div)


def test_every_severity_has_one_in_fhir(kb: kbtool.KnowledgeBase) -> None:
    known = codings(kb.knowledge)
    grades = {"high": 0, "moderate": 1, "low": 2}
    ordered = sorted(kb.knowledge.instances(CG["Severity"]), key=lambda i: int(kb.knowledge.value(i, CG["position"]) or 0))
    found = [known.severity(kb.knowledge.value(iri, SKOS["notation"])) for iri in ordered]
    assert [grades[f] for f in found] == sorted(grades[f] for f in found), "a graver one must not look less grave"
    assert {"high", "moderate", "low"} == set(found)
    assert known.severity("of another guideline") == "high"


def test_another_guideline_speaks_fhir_too() -> None:
    folder = Path(__file__).parent / "second_guideline"
    kb = kbtool.load(folder / "root.ttl")
    for file in sorted((folder / "patients").glob("*.ttl")):
        found = bundle(kb, kb.assess(file, as_of=AS_OF))
        assert broken(found) == [], file.name


def test_the_command_line_prints_it() -> None:
    command = [sys.executable, "-m", "kbtool", "assess", str(FOLDER / "P22.ttl"), str(FOLDER / "P01.ttl"), "--as-of", AS_OF]
    done = subprocess.run([*command, "--format", "fhir"], capture_output=True, check=True, text=True)
    found = json.loads(done.stdout)
    assert broken(found) == []
    assert len(of(found, "GuidanceResponse")) == 2


def test_batches_give_the_same_as_one_by_one(kb: kbtool.KnowledgeBase) -> None:
    """A cohort is written patient by patient, each with its own identifiers."""
    names = ("P01", "P02", "P22")
    chosen = [golden.cases()[name] for name in names]
    answers = engine.assess(kb.knowledge, engine.Facts([c.group for c in chosen], []), engine.parse_as_of(AS_OF))
    found = json.loads("".join(pieces(kb, AS_OF, (a.data for a in answers), [])))
    assert broken(found) == []
    assert [r["id"] for r in of(found, "GuidanceResponse")] == [
        one(made(n)[1], "GuidanceResponse")["id"] for n in ("P01", "P02", "P22")
    ]


def test_references_into_the_record_are_used_where_known(kb: kbtool.KnowledgeBase) -> None:
    result = kb.assess(FOLDER / "P22.ttl", as_of=AS_OF)
    order = next(p for p in result.to_json()["patients"][0]["prohibitions"] if p["hardStop"])["orders"][0]["fact"]
    found = bundle(kb, result, origins={order: "MedicationRequest/103"})
    assert broken(found) == []
    assert "MedicationRequest/103" in {r for issue in of(found, "DetectedIssue") for r in references(issue)}


def test_a_record_in_fhir_is_referred_to_and_what_was_not_read_is_told(kb: kbtool.KnowledgeBase) -> None:
    """FHIR in, FHIR out: the order, the results and the patient are those of the record."""
    document = request("P22", "order-sign")
    resources = [*(value for value in document["prefetch"].values() if value), document["context"]["draftOrders"]]
    unread = {"resourceType": "Observation", "id": "bad", "status": "final", "subject": {"reference": "Patient/P22"}}
    unread |= {"code": {"coding": [{"system": "http://loinc.org", "code": "2823-3"}]}, "valueQuantity": {"value": 3, "unit": "x"}}
    record = read_resources(loads(encoded([*resources, unread])), kb.knowledge)
    (answer,) = engine.assess(kb.knowledge, record.facts(), engine.parse_as_of(AS_OF))
    found = json.loads("".join(pieces(kb, AS_OF, [answer.data], ["https://example.org/lost"], record.origins)))
    assert broken(found) == []
    assert one(found, "GuidanceResponse")["subject"] == {"type": "Patient", "reference": "Patient/P22"}
    issue = next(r for r in of(found, "DetectedIssue") if "hardStop" in {c["code"] for c in r["code"]["coding"]})
    order = document["context"]["draftOrders"]["entry"][0]["resource"]["id"]
    assert [i["reference"] for i in issue["implicated"]] == [f"MedicationRequest/{order}"]
    told = [i for o in of(found, "OperationOutcome") for i in o["issue"]]
    assert any(i["severity"] == "warning" and i["diagnostics"].startswith("Observation/bad") for i in told)
    assert any(i["diagnostics"] == "https://example.org/lost" for i in told)

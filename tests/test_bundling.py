"""Exports for bulk data: FHIR resources one a line, in files by type, brought together by patient."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cohort as made
import pytest
from cohort_helpers import run_here

import kbtool
from kbtool.cohort import CohortError, Settings, Total, bundling
from kbtool.fhir.read import read

AS_OF = made.AS_OF
MRN = "https://hospital.example/mrn"

Json = dict[str, Any]


@pytest.fixture(scope="module")
def kb() -> kbtool.KnowledgeBase:
    return kbtool.load()


def resources(number: int, seed: int = 3) -> list[list[Json]]:
    """The resources of some patients."""
    people = made.cohort(number, seed=seed, broken=0.2)
    bundles = [json.loads(made.bundle(person), parse_float=made._Number) for person in people]
    return [[entry["resource"] for entry in bundle["entry"]] for bundle in bundles]


def line(resource: Json) -> str:
    return made._dump(resource)


def assessed(folder: Path, *inputs: Path, **more: Any) -> tuple[dict[str, Json], list[Json], Total]:
    """Answers by patient, what was refused, and the totals."""
    out = folder / "out.ndjson"
    _, total = run_here(Settings(inputs, out, as_of=AS_OF, partition=True, **more))
    found = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    refused = [json.loads(line) for line in out.with_suffix(".refused.ndjson").read_text(encoding="utf-8").splitlines()]
    assert len({answer["patient"] for answer in found}) == len(found)
    return {answer["patient"]: answer for answer in found}, refused, total


def different(found: dict[str, Json], wanted: dict[str, Json]) -> list[tuple[str, str]]:
    """Where answers differ, but for the order in which it is told what was not read."""

    def said(answer: Json, key: str) -> Any:
        value = answer.get(key)
        return sorted(value, key=str) if key == "notRead" and value else value

    everybody = {patient: (found.get(patient, {}), wanted.get(patient, {})) for patient in found.keys() | wanted.keys()}
    return [(p, key) for p, (one, other) in everybody.items() for key in {*one, *other} if said(one, key) != said(other, key)]


def at_once(kb: kbtool.KnowledgeBase, data: bytes) -> tuple[dict[str, Json], list[str]]:
    """Answers by patient, with the place of treatment, and what belongs to nobody, where everything is read at once."""
    records = read(data, kb.knowledge)
    answers = {p: answer.to_json() for p, answer in kb.assess(data, as_of=AS_OF, format="fhir").patients.items()}
    for patient, record in records.patients.items():
        places = {o.strip('"') for s, p, o in record.rows if p.endswith("/treatedAt>") and s == f"<{patient}>"}
        if places:
            answers[patient]["treatedAt"] = "; ".join(sorted(places))
    return answers, sorted(f"{stray.resource}: {stray.reason}" for stray in records.stray if stray.matters)


def disordered(chance: random.Random) -> list[str]:
    """An export with all that makes it hard to tell whose a resource is."""
    people, lines = resources(8, seed=chance.randint(1, 10**6)), []
    names = [person[0]["id"] for person in people]
    people[1][0]["identifier"] = people[2][0]["identifier"] = [{"system": MRN, "value": "twice"}]
    people[3] = people[3][1:]  # nobody says who that is
    if chance.random() < 0.5:
        del people[4][0]["id"]
    for person, name in zip(people, names, strict=True):
        if person and person[0]["resourceType"] == "Patient" and chance.random() < 0.7:
            person[0]["managingOrganization"] = {"reference": chance.choice(["Organization/o1", "Organization/o2"])}
        if chance.random() < 0.4:
            visit = {
                "resourceType": "Encounter",
                "id": f"v{name}",
                "status": "finished",
                "period": {"start": "2026-02-01T08:00:00Z"},
            }
            person.append(
                visit | {"subject": {"reference": f"Patient/{name}"}, "serviceProvider": {"reference": "Organization/o3"}}
            )
        for resource in person:
            if "subject" in resource and chance.random() < 0.4:
                resource["subject"] = chance.choice(
                    [
                        {"reference": f"https://ehr.example/fhir/Patient/{name}"},
                        {"reference": f"Patient/{name}/_history/2"},
                        {"identifier": {"system": MRN, "value": name}},
                        {"identifier": {"system": MRN, "value": "twice"}},
                        {"identifier": {"system": MRN, "value": "nobody's"}},
                        {"reference": "#p"},
                        {"reference": "Group/1"},
                        {"reference": "urn:uuid:0b6b1b0e-5f5c-4f0e-8f0e-0b6b1b0e5f5c"},
                        {"reference": chance.choice([f"Patient/{other}" for other in names])},
                        {"display": "somebody"},
                    ]
                )
            concept = resource.get("medicationCodeableConcept")
            if concept and chance.random() < 0.7:
                number = f"m{concept['coding'][0]['code']}"
                del resource["medicationCodeableConcept"]
                where = chance.choice(["", "https://ehr.example/fhir/"])
                resource["medicationReference"] = {"reference": f"{where}Medication/{number}"}
                if chance.random() < 0.8:
                    lines.append(line({"resourceType": "Medication", "id": number, "code": concept}))
            lines.append(line(resource))
            if (
                chance.random() < 0.1 and resource["resourceType"] != "Encounter"
            ):  # the same once more, as it was at another time, or as that of another patient
                again = resource | {"meta": {"lastUpdated": chance.choice(["2026-01-01T00:00:00Z", "2026-02-09T00:00:00Z"])}}
                if "subject" in again and chance.random() < 0.5:
                    again["subject"] = {"reference": f"Patient/{chance.choice(names)}"}
                lines.append(line(again))
    lines += [line({"resourceType": "Organization", "id": f"o{n}", "name": f"Unit {n}"}) for n in (1, 2, 3)]
    lines.append(line({"resourceType": "Practitioner", "id": "d"}))
    lines.append(line({"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "incomplete"}]}))
    chance.shuffle(lines)
    return [text.replace("/", "\\/") if chance.random() < 0.2 else text for text in lines]


@pytest.mark.parametrize("seed", [*range(12), *(pytest.param(seed, marks=pytest.mark.deep) for seed in range(12, 300))])
def test_an_export_is_answered_as_if_it_were_read_at_once(tmp_path: Path, kb: kbtool.KnowledgeBase, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    lines = disordered(chance)
    wanted, strays = at_once(kb, "\n".join(lines).encode())
    cuts = sorted(chance.sample(range(len(lines)), 2))
    parts = [lines[: cuts[0]], lines[cuts[0] : cuts[1]], lines[cuts[1] :]]
    files = [tmp_path / name for name in ("1.ndjson", "2.jsonl.gz", "3.ndjson")]
    files[0].write_bytes(b"\xef\xbb\xbf" + "\r\n".join(parts[0]).encode())
    files[1].write_bytes(gzip.compress("\n\n".join(parts[1]).encode()))
    files[2].write_text("\n".join(parts[2]) + "\n", encoding="utf-8")
    found, refused, _ = assessed(tmp_path, *files, size=chance.choice([1, 3, 500]))
    assert different(found, wanted) == []
    assert sorted(entry["reason"] for entry in refused if entry["patient"] is None) == strays
    assert len(strays) > 0


def test_an_export_gives_what_a_bundle_for_each_patient_gives(tmp_path: Path) -> None:
    people = resources(30)
    for kind in {resource["resourceType"] for person in people for resource in person}:
        of_kind = [line(resource) for person in people for resource in person if resource["resourceType"] == kind]
        (tmp_path / f"{kind}.ndjson").write_text("\n".join(sorted(of_kind)))
    bundles = [{"resourceType": "Bundle", "entry": [{"resource": resource} for resource in person]} for person in people]
    (tmp_path / "each").mkdir()
    (tmp_path / "each" / "bundles.ndjson").write_text("\n".join(map(line, bundles)))
    _, total = run_here(Settings([tmp_path / "each"], tmp_path / "each" / "out.ndjson", as_of=AS_OF))
    wanted = [json.loads(text) for text in (tmp_path / "each" / "out.ndjson").read_text(encoding="utf-8").splitlines()]
    found, refused, other = assessed(tmp_path, *sorted(tmp_path.glob("*.ndjson")))
    assert different(found, {answer["patient"]: answer for answer in wanted}) == []
    assert other.counts == total.counts
    assert {entry["line"] for entry in refused} <= {None}
    assert not list(tmp_path.glob("out.parts*"))


def test_triples_and_resources_are_brought_together_in_one_run(tmp_path: Path) -> None:
    (person,) = resources(1)
    (tmp_path / "in.nt").write_text(made.n_triples(made.patient(3, 7, 0.0)))
    (tmp_path / "one.json").write_text(json.dumps(person[0], indent=1))
    (tmp_path / "in.ndjson").write_text("\n".join(map(line, person[1:])))
    found, _, total = assessed(tmp_path, *(tmp_path / name for name in ("in.nt", "one.json", "in.ndjson")))
    assert {name.rsplit("/", 1)[1] for name in found} == {"p7", "p0"}
    assert total.patients == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"resourceType": "Patient", "id": "1"}\n{"resourceType": "Obs', r"line 2: line 1, column \d+: .*nobody can tell whose"),
        ('{"resourceType": "Patient", "id": "\\ud800"}', r"half of a character.*nobody can tell whose"),
        ('{"resourceType": "Bundle", "entry": []}', "not a single FHIR resource"),
        ('{"@id": "urn:p", "@type": "https://w3id.org/kbtool/cg/Patient"}', "not a single FHIR resource"),
        ("[1]", "not a single FHIR resource"),
    ],
)
def test_what_is_no_resource_stops_the_run(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "in.ndjson").write_text(text)
    with pytest.raises(CohortError, match=said):
        assessed(tmp_path, tmp_path / "in.ndjson")


@pytest.mark.parametrize("form", ["ndjson", "nt"])
@pytest.mark.parametrize(
    "damage", [lambda packed: packed[: len(packed) // 2], lambda packed: packed[:200] + b"\xff" * 50 + packed[250:]]
)
def test_a_file_that_is_damaged_stops_the_run(tmp_path: Path, form: str, damage: Callable[[bytes], bytes]) -> None:
    text = made.n_triples(made.patient(3, 1, 0.0)) if form == "nt" else "\n".join(map(line, resources(1)[0]))
    (tmp_path / f"in.{form}.gz").write_bytes(damage(gzip.compress(text.encode())))
    with pytest.raises(CohortError, match=r"cannot be read|not valid"):
        assessed(tmp_path, tmp_path / f"in.{form}.gz")


def test_a_patient_with_too_much_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in.ndjson").write_text("\n".join(map(line, resources(1)[0])))
    monkeypatch.setattr(bundling, "MAX_LINE", 2000)
    with pytest.raises(CohortError, match="belong to one patient"):
        assessed(tmp_path, tmp_path / "in.ndjson")


def test_single_resources_are_told_of_the_way(tmp_path: Path) -> None:
    (tmp_path / "in.ndjson").write_text("\n".join(map(line, resources(1)[0])))
    out = tmp_path / "out.ndjson"
    run_here(Settings([tmp_path / "in.ndjson"], out, as_of=AS_OF))
    assert "--partition" in out.with_suffix(".refused.ndjson").read_text(encoding="utf-8")


def plain(folder: Path, *inputs: Path) -> tuple[dict[str, list[str]], list[Json]]:
    """Reasons why patients are refused, and what was refused, without bringing anything together."""
    out = folder / "plain.ndjson"
    run_here(Settings(inputs, out, as_of=AS_OF))
    found = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    refused = [json.loads(line) for line in out.with_suffix(".refused.ndjson").read_text(encoding="utf-8").splitlines()]
    return {answer["patient"]: [v["message"] for v in answer.get("refused", ())] for answer in found}, refused


def elsewhere(resource: Json) -> Json:
    """A resource that names its patient by a full address."""
    return resource | {"subject": {"reference": f"https://ehr.example/fhir/{resource['subject']['reference']}"}}


def test_a_patient_whom_nobody_introduces_is_not_answered_in_halves(tmp_path: Path) -> None:
    """One half names Patient/id, the other the address of a server; whether that is one person, only a Patient could tell."""
    (person,) = resources(1)
    rest = [resource for resource in person if "subject" in resource]
    (tmp_path / "a.ndjson").write_text("\n".join(map(line, rest[::2])))
    (tmp_path / "b.ndjson").write_text("\n".join(line(elsewhere(resource)) for resource in rest[1::2]))
    found, _, total = assessed(tmp_path, tmp_path / "a.ndjson", tmp_path / "b.ndjson")
    assert total.patients == 2
    for answer in found.values():
        assert answer["refused"]
        assert any("no fact of the record is used" in entry["reason"] for entry in answer["notRead"])


@pytest.mark.parametrize("addressed", [0, 1])
def test_a_bundle_with_addresses_and_one_without_are_of_one_patient_or_refused(tmp_path: Path, addressed: int) -> None:
    (person,) = resources(1)
    entries = [[{"resource": resource} for resource in [person[0], *person[1 + n :: 2]]] for n in (0, 1)]
    for entry in entries[addressed]:
        name = f"{entry['resource']['resourceType']}/{entry['resource']['id']}"
        entry["fullUrl"] = f"https://ehr.example/fhir/{name}"
    text = "\n".join(line({"resourceType": "Bundle", "entry": some}) for some in entries)
    (tmp_path / "in.ndjson").write_text(text)
    found, _ = plain(tmp_path, tmp_path / "in.ndjson")
    assert [bool(reasons) for reasons in found.values()] == [True, True]
    assert all("more than one place" in reasons[0] for reasons in found.values())


def test_patients_of_two_servers_are_not_confounded(tmp_path: Path) -> None:
    (person,) = resources(1)
    lines = []
    for server in ("https://a.example/fhir/", "https://b.example/fhir/"):
        entries = [{"fullUrl": f"{server}{r['resourceType']}/{r['id']}", "resource": r} for r in person]
        lines.append(line({"resourceType": "Bundle", "entry": entries}))
    (tmp_path / "in.ndjson").write_text("\n".join(lines))
    found, _ = plain(tmp_path, tmp_path / "in.ndjson")
    assert list(found.values()) == [[], []]


@pytest.mark.parametrize("escaped", [False, True])
def test_a_resource_that_stands_alone_refuses_the_patient_whom_it_is_about(tmp_path: Path, escaped: bool) -> None:
    people = resources(2)
    bundles = [{"resourceType": "Bundle", "entry": [{"resource": r} for r in person]} for person in people]
    (tmp_path / "a.ndjson").write_text("\n".join(map(line, bundles)))
    alone = line(people[0][-1])
    (tmp_path / "b.ndjson").write_text(alone.replace("/", "\\/") if escaped else alone)
    found, refused = plain(tmp_path, tmp_path / "a.ndjson", tmp_path / "b.ndjson")
    reasons = {name.rsplit("/", 1)[1]: reasons for name, reasons in found.items()}
    assert "more than one place" in reasons[people[0][0]["id"]][0]
    assert not any("more than one place" in reason for reason in reasons[people[1][0]["id"]])
    assert any("a single FHIR resource" in entry["reason"] for entry in refused if entry["patient"] is None)

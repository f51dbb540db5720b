"""How fast FHIR is read: from the bytes of NDJSON with a Bundle a line to facts, and on to answers, on one core.

Run: python tests/benchmarks/bench_fhir.py [BUNDLES]. It prints medians of CPU time over several runs: Bundles a second, and as
peers of the same run json.loads alone, and the same facts read from N-Triples. Then the patients of `tests/cohort.py`, from
the bytes of either form to answers with validation, and how many answers say the same.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import cohort as made
from fhir_records import Writer, dumps, sayable
from golden import cases

import kbtool
from kbtool import engine
from kbtool.facts import FORMAT_NAMES, Facts, Reader
from kbtool.knowledge import Knowledge

RUNS = 5
SIZE = 12 * 1024

Json = dict[str, Any]


def bundles(knowledge: Knowledge, count: int) -> list[bytes]:
    """Bundles of about SIZE bytes: worked patients with metadata as servers send it, among results that no rule needs."""
    writer, chance = Writer(knowledge), random.Random(7)  # noqa: S311
    worked = [writer.resources(case) for case in list(filter(sayable, cases().values()))[::7]]
    return [_bundle(worked[number % len(worked)], number, chance) for number in range(count)]


def _bundle(resources: list[Json], number: int, chance: random.Random) -> bytes:
    patient = f"p{number}"
    entries = []
    for resource in resources:
        entries.append(_sent(resource | {"id": f"{resource['id']}-{number}"}, patient))
    text = dumps({"resourceType": "Bundle", "type": "searchset", "entry": entries})
    while len(text) < SIZE:
        entries.append(_sent(_other(len(entries), number, chance), patient))
        text = dumps({"resourceType": "Bundle", "type": "searchset", "entry": entries})
    return text


def _sent(resource: Json, patient: str) -> Json:
    """A resource as a server sends it: with its address, version and narrative."""
    if resource["resourceType"] == "Patient":
        resource = resource | {
            "id": patient,
            "name": [{"family": "Doe", "given": ["J."]}],
            "gender": "female",
            "birthDate": "1950-01-01",
        }
    else:
        resource = resource | {"subject": {"reference": f"Patient/{patient}"}}
    if resource["resourceType"] == "Observation":
        category = {"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "laboratory"}
        resource = resource | {"category": [{"coding": [category]}], "issued": "2026-02-10T07:10:00Z"}
        resource.pop("partOf", None)
    address = f"https://fhir.example.org/r4/{resource['resourceType']}/{resource['id']}"
    return {"fullUrl": address, "resource": {"meta": {"versionId": "1", "lastUpdated": "2026-02-10T07:11:00Z"}} | resource}


def _other(index: int, number: int, chance: random.Random) -> Json:
    code = f"{chance.randrange(10000, 99999)}-{chance.randrange(10)}"
    return {
        "resourceType": "Observation",
        "id": f"o{index}-{number}",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": code, "display": f"Some other test {code}"}], "text": "Other"},
        "effectiveDateTime": "2026-02-10T06:40:00Z",
        "valueQuantity": {
            "value": chance.randrange(100, 200),
            "unit": "U/L",
            "system": "http://unitsofmeasure.org",
            "code": "U/L",
        },
        "referenceRange": [{"low": {"value": 100, "unit": "U/L"}, "high": {"value": 200, "unit": "U/L"}}],
    }


def seconds(work: Callable[[], object]) -> float:
    """The median CPU time of some work."""
    found = []
    for _ in range(RUNS):
        begin = time.process_time()
        work()
        found.append(time.process_time() - begin)
    return statistics.median(found)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    knowledge = kbtool.load().knowledge
    lines = bundles(knowledge, count)
    data = b"\n".join(lines)

    def read() -> Any:
        reader = Reader(vocabulary=knowledge.graph)
        reader.add("bench.ndjson", data, "fhir")
        return reader.facts(knowledge.graph)

    facts = read()
    rows = sum(len(record.rows()) for group in facts.groups for record in group)
    turtle = b"\n".join(b"".join(str(q.triple).encode() + b" .\n" for q in r.triples) for g in facts.groups for r in g)

    def read_triples() -> Any:
        reader = Reader()
        reader.add("bench.nt", turtle, None)
        return reader.facts(knowledge.graph)

    fhir, parsed, triples = seconds(read), seconds(lambda: [json.loads(line) for line in lines]), seconds(read_triples)
    print(f"{count} Bundles of {len(data) / count / 1024:.1f} KB, {rows / count:.0f} triples a patient, {len(facts)} patients")
    print(f"FHIR to facts: {count / fhir:.0f} Bundles/s ({fhir / count * 1e6:.0f} us a Bundle)")
    print(f"json.loads alone: {count / parsed:.0f} Bundles/s; reading takes {fhir / parsed:.1f} times as long")
    print(f"the same facts as triples: {count / triples:.0f} patients/s")
    to_answers(knowledge, count)


def to_answers(knowledge: Knowledge, count: int) -> None:
    """Patients as a provider has them, in FHIR and as triples: each stage."""
    people = list(made.cohort(count, broken=0))
    forms = {"fhir": "".join(made.bundle(p) + "\n" for p in people), "n-triples": "".join(map(made.n_triples, people))}
    as_of = engine.parse_as_of(made.AS_OF)
    said: dict[str, dict[str, Any]] = {}
    for form, text in forms.items():
        data = text.encode()

        def read(form: str = form, data: bytes = data) -> Facts:
            reader = Reader(vocabulary=knowledge.graph)
            reader.add("bench", data, FORMAT_NAMES[form])
            return reader.facts(knowledge.graph)

        reading = seconds(read)
        both = seconds(lambda read=read: list(engine.assess(knowledge, read(), as_of)))  # type: ignore[misc]
        said[form] = {r.patient: [r.recommended, r.blocked, r.missing] for r in engine.assess(knowledge, read(), as_of)}
        print(
            f"cohort from {form}: {count / both:.0f} patients/s to answers; "
            f"{reading / count * 1e6:.0f} us a patient for reading, {(both - reading) / count * 1e6:.0f} us for assessing"
        )
    same = sum(said["fhir"].get(patient) == answer for patient, answer in said["n-triples"].items())
    print(f"the same recommended, blocked and missing: {same} of {count} patients")


if __name__ == "__main__":
    main()

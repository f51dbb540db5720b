"""Make a cohort for tests and benchmarks: dialysis patients as a quality team meets them, the same each time for a seed.

    python tests/cohort.py 10000 cohort.nt            # also .ttl, .ndjson (a FHIR Bundle a line), .jsonld.ndjson; and .gz
    python tests/cohort.py 500 folder/ --form ttl     # a file for each patient
    python tests/cohort.py 1000 c.ndjson --seed 7 --broken 0.1 --start 5000

Laboratory values are drawn around what such patients have, in the units in use, one to three results of each over the last
weeks at the times of their sessions; some are missing, and some patients have a fact that is wrong. Each patient is the same
in every form, and the same whatever the number of others.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import IO, Any

AS_OF = "2026-02-10T12:00:00Z"
"""The as-of time for which patients are made."""

BASE = "https://hospital.example/fhir/"
CG, DK, XSD = "https://w3id.org/kbtool/cg/", "https://w3id.org/kbtool/dialysis/", "http://www.w3.org/2001/XMLSchema#"
TYPE = "http://www.w3.org/1999/02/22-rdf-syntax-ns#type"
UNITS = ["Dialysis North", "Dialysis South", "Harbour Ward", "Home Programme", None]

Json = dict[str, Any]


@dataclass(frozen=True)
class Lab:
    """A laboratory value: LOINC code, share of patients with a result, mean, spread, decimals, unit; another unit with its
    factor and the code that goes with it, which some laboratories leave as it was."""

    code: str
    share: float
    mean: float
    spread: float
    digits: int
    unit: str
    other: tuple[str, float, str] | None = None


LABS = {
    "SerumMagnesium": Lab("2601-3", 0.8, 0.9, 0.16, 2, "mmol/L", ("mg/dL", 2.43, "19123-9")),
    "IonisedCalcium": Lab("1995-0", 0.65, 1.13, 0.08, 2, "mmol/L", ("mg/dL", 4.008, "17863-2")),
    "SerumPotassium": Lab("2823-3", 0.97, 4.8, 0.75, 1, "mmol/L", ("meq/L", 1.0, "2823-3")),
    "SerumPhosphate": Lab("14879-1", 0.93, 1.75, 0.5, 2, "mmol/L", ("mg/dL", 3.097, "2777-1")),
    "SerumSodium": Lab("2951-2", 0.95, 138.0, 3.2, 0, "mmol/L"),
    "SerumBicarbonate": Lab("1963-8", 0.7, 22.5, 3.0, 1, "mmol/L"),
    "TotalCalcium": Lab("17861-6", 0.6, 8.9, 0.7, 1, "mg/dL"),
    "SerumAlbumin": Lab("1751-7", 0.6, 37.0, 4.5, 0, "g/L", ("g/dL", 0.1, "1751-7")),
    "ParathyroidHormone": Lab("2731-8", 0.3, 320.0, 140.0, 0, "pg/mL"),
    "SerumFerritin": Lab("2276-4", 0.3, 420.0, 190.0, 0, "ng/mL"),
    "PlasmaAluminium": Lab("5574-9", 0.15, 14.0, 12.0, 0, "ug/L"),
}
MEASURED = {
    "DryWeight": Lab("8341-0", 0.8, 72.0, 14.0, 1, "kg"),
    "PreDialysisWeight": Lab("8347-7", 0.7, 74.0, 14.0, 1, "kg"),
    "SystolicBloodPressure": Lab("8480-6", 0.9, 138.0, 22.0, 0, "mm[Hg]"),
    "HeartRate": Lab("8867-4", 0.7, 76.0, 12.0, 0, "/min"),
    "BodyTemperature": Lab("8310-5", 0.5, 36.6, 0.4, 1, "Cel"),
}
FINDINGS = {
    "MuscleCramp": ("http://snomed.info/sct", "55300003", 0.35),
    "MuscleSpasm": ("http://snomed.info/sct", "45352006", 0.15),
    "Twitch": ("http://snomed.info/sct", "82470000", 0.08),
    "Myoclonus": ("http://snomed.info/sct", "17450006", 0.05),
    "HeartFailure": ("http://hl7.org/fhir/sid/icd-10-cm", "I50.9", 0.2),
    "Seizure": ("http://snomed.info/sct", "91175000", 0.02),
    "Confusion": ("http://snomed.info/sct", "286933003", 0.03),
}
DRUGS = {
    "Baclofen": ("http://www.nlm.nih.gov/research/umls/rxnorm", "1292", 0.1, [5, 10, 15, 30]),
    "Gabapentin": ("http://www.whocc.no/atc", "N02BF01", 0.12, [100, 300, 600]),
    "Quinine": ("http://www.nlm.nih.gov/research/umls/rxnorm", "9071", 0.04, [200, 300]),
    "Midodrine": ("http://www.whocc.no/atc", "C01CA17", 0.06, [5, 10, 15]),
    "Digoxin": ("http://www.whocc.no/atc", "C01AA05", 0.05, [0.125]),
}
SETTINGS = {"DialysateSodium": (138.0, 2.0, 0, "mmol/L"), "DialysateMagnesium": (0.5, 0.1, 2, "mmol/L")}
BROKEN = ("unit", "text", "implausible", "future", "dose", "class")
"""What is done to a fact that is wrong. The first four are set aside with their observation, the others refuse the patient."""


@dataclass
class Fact:
    """A fact: its link to the patient, number, class, stated values as (property, datatype, text), facts below, FHIR form."""

    link: str
    name: str
    kind: str
    stated: list[tuple[str, str, str]] = field(default_factory=list)
    below: list[Fact] = field(default_factory=list)
    code: tuple[str, str] = ("", "")

    def get(self, name: str) -> str | None:
        return next((text for prop, _, text in self.stated if prop == name), None)


@dataclass
class Patient:
    """A patient: identifier, unit of treatment, facts."""

    name: str
    unit: str | None
    facts: list[Fact]
    flaw: str | None = None

    @property
    def iri(self) -> str:
        return f"{BASE}Patient/{self.name}"


def patient(seed: int, number: int, broken: float) -> Patient:
    """The patient of a number."""
    random = Random(f"{seed}/{number}")  # noqa: S311
    now = datetime.fromisoformat(AS_OF)
    name = f"p{number}"
    facts: list[Fact] = []

    def add(link: str, kind: str, code: tuple[str, str] = ("", ""), **stated: tuple[str, str]) -> Fact:
        values = [(prop, datatype, text) for prop, (datatype, text) in stated.items()]
        facts.append(Fact(link, f"{name}-{len(facts)}", kind, values, code=code))
        return facts[-1]

    last = now - timedelta(hours=random.choice([2, 3, 5, 8, 20, 22, 23, 44, 50]))
    kind = "Haemodialysis" if random.random() < 0.9 else "PeritonealDialysis"
    treatment = add(
        "hasTreatment",
        kind,
        ("http://snomed.info/sct", "302497006" if kind == "Haemodialysis" else "71192002"),
        start=_time(now - timedelta(days=random.randint(40, 3000))),
    )
    on_machine = kind == "Haemodialysis"
    if on_machine:
        for n, (setting, (mean, spread, digits, unit)) in enumerate(SETTINGS.items()):
            if random.random() < 0.6:
                value = _number(random.gauss(mean, spread), digits)
                below = Fact(
                    "hasSetting", f"{treatment.name}-s{n}", setting, [("value", "decimal", value), ("unit", "string", unit)]
                )
                below.stated.append(("start", *_time(now - timedelta(days=random.randint(20, 200)))))
                treatment.below.append(below)
        for n in range(2):
            start = last - timedelta(days=2 * n)
            end = {} if start + timedelta(hours=4) > now else {"end": _time(start + timedelta(hours=4))}
            add("hasSession", "HaemodialysisSession", start=_time(start), **end)
    for lab, about in (LABS | MEASURED).items():
        if random.random() > about.share:
            continue
        for n in range(random.choice([1, 1, 2, 3]) if lab in LABS else random.choice([1, 2])):
            moment = last - timedelta(
                days=random.choice([0, 0, 0, 2]) if not n else 7 * n + 2 * random.randint(0, 1), minutes=random.randint(10, 40)
            )
            value, unit, code = max(random.gauss(about.mean, about.spread), about.mean / 5), about.unit, about.code
            if about.other and (kind := random.random()) < 0.3:
                unit, value, code = about.other[0], value * about.other[1], code if kind < 0.01 else about.other[2]
            stated = {"value": ("decimal", _number(value, about.digits)), "unit": ("string", unit), "time": _time(moment)}
            if on_machine and random.random() < 0.9:
                stated["phase"] = ("iri", DK + "PreDialysis")
            add("hasObservation", lab, ("http://loinc.org", code), **stated)
    for finding, (system, code, share) in FINDINGS.items():
        if random.random() < share:
            stated = {"onset": _time(now - timedelta(hours=random.choice([1, 5, 20, 40, 300, 900])))}
            if random.random() < 0.3:
                stated["state"] = ("iri", CG + random.choice(["Resolved", "InProgress", "Unresolved"]))
            add("hasFinding", finding, (system, code), **stated)
    for drug, (system, code, share, doses) in DRUGS.items():
        if random.random() < share:
            dose = (
                {"dailyDose": ("decimal", _number(random.choice(doses), 3)), "unit": ("string", "mg/d")}
                if random.random() < 0.9
                else {}
            )
            add("hasMedication", drug, (system, code), start=_time(now - timedelta(days=random.randint(1, 700))), **dose)
    for order, share in (("BaclofenOrder", 0.02), ("IntravenousMagnesiumOrder", 0.02), ("QuinineOrder", 0.01)):
        if random.random() < share:
            add("hasOrder", order, (DK, order))
    made = Patient(name, random.choice(UNITS), facts)
    if random.random() < broken:
        made.flaw = _break(made, random)
    return made


def _break(made: Patient, random: Random) -> str:
    links = {"dose": "hasMedication", "class": "hasFinding"}
    flaws = {}
    for flaw in BROKEN:
        link = links.get(flaw, "hasObservation")
        flaws[flaw] = [f for f in made.facts if f.link == link and (flaw != "dose" or f.get("dailyDose"))]
    flaw = random.choice([flaw for flaw, facts in flaws.items() if facts])
    fact = flaws[flaw][0]
    stated = {prop: (datatype, text) for prop, datatype, text in fact.stated}
    if flaw == "unit":
        stated["unit"] = ("string", "furlong")
    elif flaw == "text":
        stated["value"] = ("string", f"<{stated['value'][1]}")
    elif flaw == "implausible":
        stated["value"] = ("decimal", "99999.0")
    elif flaw == "future":
        stated["time"] = _time(datetime.fromisoformat(AS_OF) + timedelta(days=40))
    elif flaw == "dose":
        del stated["unit"]
    else:
        fact.kind, fact.code = "NoSuchFinding", ("https://hospital.example/codes", "unknown")
    fact.stated = [(prop, datatype, text) for prop, (datatype, text) in stated.items()]
    return flaw


def _time(moment: datetime) -> tuple[str, str]:
    return "dateTime", moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if digits else f"{value:.1f}"


# --- Forms ------------------------------------------------------------------------------------------


def n_triples(made: Patient, *, blank: bool = False) -> str:
    """As N-Triples; with `blank` the facts are blank nodes."""
    lines = [f"<{made.iri}> <{TYPE}> <{CG}Patient> ."]
    if made.unit:
        lines.append(f'<{made.iri}> <{CG}treatedAt> "{made.unit}" .')

    def put(owner: str, fact: Fact) -> None:
        node = f"_:{fact.name.replace('-', 'x')}" if blank else f"<{BASE}fact/{fact.name}>"
        lines.append(f"{owner} <{CG}{fact.link}> {node} .")
        lines.append(f"{node} <{TYPE}> <{DK}{fact.kind}> .")
        for prop, datatype, text in fact.stated:
            lines.append(f"{node} <{CG}{prop}> {_term(datatype, text)} .")
        for below in fact.below:
            put(node, below)

    for fact in made.facts:
        put(f"<{made.iri}>", fact)
    return "\n".join(lines) + "\n"


def turtle(made: Patient) -> str:
    """As Turtle, facts as blank nodes without a label; without the prefixes."""

    def node(fact: Fact) -> str:
        parts = [f"a dk:{fact.kind}", *(f"cg:{prop} {_term(datatype, text)}" for prop, datatype, text in fact.stated)]
        return "[ " + " ; ".join([*parts, *(f"cg:{below.link} {node(below)}" for below in fact.below)]) + " ]"

    parts = ["a cg:Patient", *([f'cg:treatedAt "{made.unit}"'] if made.unit else [])]
    return f"<{made.iri}> " + " ;\n  ".join([*parts, *(f"cg:{fact.link} {node(fact)}" for fact in made.facts)]) + " .\n\n"


PREFIXES = f"@prefix cg: <{CG}> .\n@prefix dk: <{DK}> .\n@prefix xsd: <{XSD}> .\n\n"


def _term(datatype: str, text: str) -> str:
    return f"<{text}>" if datatype == "iri" else f'"{text}"' if datatype == "string" else f'"{text}"^^<{XSD}{datatype}>'


def json_ld(made: Patient) -> Json:
    """As JSON-LD, facts as nodes without a name."""

    def node(fact: Fact) -> Json:
        data: Json = {"@type": DK + fact.kind}
        for prop, datatype, text in fact.stated:
            data[CG + prop] = (
                {"@id": text}
                if datatype == "iri"
                else text
                if datatype == "string"
                else {"@value": text, "@type": XSD + datatype}
            )
        for below in fact.below:
            data.setdefault(CG + below.link, []).append(node(below))
        return data

    data: Json = {"@id": made.iri, "@type": CG + "Patient"}
    if made.unit:
        data[CG + "treatedAt"] = made.unit
    for fact in made.facts:
        data.setdefault(CG + fact.link, []).append(node(fact))
    return data


def bundle(made: Patient) -> str:
    """As a FHIR R4 Bundle in one line."""
    subject = {"reference": f"Patient/{made.name}"}
    person: Json = {
        "resourceType": "Patient",
        "id": made.name,
        "meta": {"versionId": "1", "lastUpdated": AS_OF},
        "identifier": [{"use": "usual", "system": "https://hospital.example/mrn", "value": made.name}],
        "active": True,
        "gender": "unknown",
    }
    if made.unit:
        person["managingOrganization"] = {"display": made.unit}
    resources = [person]
    for fact in made.facts:
        resources += _resources(fact, subject)
    entries = [{"fullUrl": f"{BASE}{r['resourceType']}/{r['id']}", "resource": r} for r in resources]
    return _dump({"resourceType": "Bundle", "type": "collection", "entry": entries})


class _Number(str):
    """A number that is written as it stands."""


def _dump(data: Any) -> str:
    if isinstance(data, _Number):
        return str(data)
    if isinstance(data, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{_dump(value)}" for key, value in data.items()) + "}"
    if isinstance(data, list):
        return "[" + ",".join(map(_dump, data)) + "]"
    return json.dumps(data, ensure_ascii=False)


def _resources(fact: Fact, subject: Json) -> Iterator[Json]:
    system, code = fact.code if fact.code[0] else (DK, fact.kind)
    concept = {"coding": [{"system": system, "code": code, "display": fact.kind}], "text": fact.kind}
    resource: Json = {"resourceType": "", "id": fact.name}
    phase, state = fact.get("phase"), fact.get("state")
    extensions = [{"url": CG + "phase", "valueCode": phase.rsplit("/", 1)[1]}] if phase else []
    if fact.link in ("hasObservation", "hasSetting"):
        resource |= {"resourceType": "Observation", "status": "final", "code": concept, "subject": subject}
        category = {"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "laboratory"}
        resource["category"] = [{"coding": [category]}]
        resource["effectiveDateTime"] = fact.get("time") or fact.get("start")
        value, unit = fact.get("value") or "", fact.get("unit")
        quantity = {"value": _Number(value), "unit": unit, "system": "http://unitsofmeasure.org", "code": unit}
        resource |= {"valueString": value} if value.startswith("<") else {"valueQuantity": quantity}
    elif fact.link == "hasFinding":
        status = "resolved" if state == CG + "Resolved" else "active"
        clinical = {"system": "http://terminology.hl7.org/CodeSystem/condition-clinical", "code": status}
        resource |= {"resourceType": "Condition", "clinicalStatus": {"coding": [clinical]}, "code": concept, "subject": subject}
        resource["onsetDateTime"] = fact.get("onset")
        if state and status == "active":
            extensions.append({"url": CG + "state", "valueCode": state.rsplit("/", 1)[1]})
    elif fact.link in ("hasTreatment", "hasSession"):
        status = "completed" if fact.get("end") else "in-progress"
        resource |= {"resourceType": "Procedure", "status": status, "code": concept, "subject": subject}
        resource["performedPeriod"] = {"start": fact.get("start")} | ({"end": fact.get("end")} if fact.get("end") else {})
    elif fact.link == "hasMedication":
        resource |= {
            "resourceType": "MedicationStatement",
            "status": "active",
            "medicationCodeableConcept": concept,
            "subject": subject,
        }
        resource["effectivePeriod"] = {"start": fact.get("start")}
        if fact.get("dailyDose"):
            amount: Json = {"value": _Number(fact.get("dailyDose") or "")}
            if fact.get("unit"):
                amount |= {"unit": "mg", "system": "http://unitsofmeasure.org", "code": "mg"}
            timing = {"repeat": {"frequency": 1, "period": 1, "periodUnit": "d"}}
            resource["dosage"] = [{"timing": timing, "doseAndRate": [{"doseQuantity": amount}]}]
    else:
        resource |= {"resourceType": "ServiceRequest", "status": "active", "intent": "order", "code": concept, "subject": subject}
    if extensions:
        resource["extension"] = extensions
    yield resource
    for below in fact.below:
        yield from _resources(below, subject)


FORMS = {
    "nt": n_triples,
    "ttl": turtle,
    "ndjson": lambda made: bundle(made) + "\n",
    "jsonld": lambda made: json.dumps(json_ld(made)) + "\n",
}
"""A patient in each form; "jsonld" is a patient a line."""


def cohort(number: int, *, seed: int = 1, broken: float = 0.03, start: int = 0) -> Iterator[Patient]:
    """The patients of a cohort. broken: share of patients with a fact that is wrong."""
    for n in range(start, start + number):
        yield patient(seed, n, broken)


def write(out: Path, number: int, form: str | None = None, *, seed: int = 1, broken: float = 0.03, start: int = 0) -> None:
    """Write a cohort into a file, or into a folder with a file for each patient."""
    form = form or form_of(out)
    people = cohort(number, seed=seed, broken=broken, start=start)
    if out.is_dir():
        for made in people:
            head = PREFIXES if form == "ttl" else ""
            (out / f"{made.name}.{form}").write_text(head + FORMS[form](made), encoding="utf-8")
        return
    with _open(out) as stream:
        stream.write((PREFIXES if form == "ttl" else "").encode())
        for made in people:
            stream.write(FORMS[form](made).encode())


def form_of(out: Path) -> str:
    """The form that the name of a file tells."""
    name = out.name.removesuffix(".gz")
    return "jsonld" if name.endswith(".jsonld.ndjson") else name.rsplit(".", 1)[-1]


def _open(out: Path) -> IO[bytes]:
    return gzip.open(out, "wb", compresslevel=3) if out.suffix == ".gz" else out.open("wb")  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patients", type=int)
    parser.add_argument("out", type=Path)
    parser.add_argument("--form", choices=sorted(FORMS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--broken", type=float, default=0.03, metavar="SHARE")
    parser.add_argument("--start", type=int, default=0, metavar="NUMBER")
    given = parser.parse_args()
    write(given.out, given.patients, given.form, seed=given.seed, broken=given.broken, start=given.start)


if __name__ == "__main__":
    main()

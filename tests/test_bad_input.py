"""Bad input through the command line: what is said, what is still answered, which exit code. Never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kbtool.cli import app

FOLDER = Path(__file__).parent / "patients"
AS_OF = "2026-02-10T12:00:00Z"
PREFIXES = """@prefix cg: <https://w3id.org/kbtool/cg/> .
@prefix dk: <https://w3id.org/kbtool/dialysis/> .
@prefix ex: <https://example.org/patient/> .
@prefix xsd: <http://www.w3.org/2001/XMLSchema#> .
"""
START = (
    'cg:hasTreatment [ a dk:Haemodialysis ; cg:start "2024-05-01T00:00:00Z"^^xsd:dateTime ] ; cg:hasFinding [ a dk:MuscleCramp ]'
)
GOOD = f"ex:Good a cg:Patient ; {START} .\n"
TIME = 'cg:time "2026-02-10T06:40:00Z"^^xsd:dateTime ; cg:phase dk:PreDialysis'


def observation(text: str) -> str:
    return f"ex:Bad a cg:Patient ; {START} ; cg:hasObservation [ {text} ] .\n"


SET_ASIDE = {
    "unknown unit": (observation(f'a dk:SerumMagnesium ; cg:value 1.4 ; cg:unit "mg/l" ; {TIME}'), "mg/l"),
    "unit of another kind": (observation(f'a dk:SerumMagnesium ; cg:value 1.4 ; cg:unit "mm[Hg]" ; {TIME}'), "mm[Hg]"),
    "no unit": (observation(f"a dk:SerumMagnesium ; cg:value 1.4 ; {TIME}"), "unit"),
    "implausible": (observation(f'a dk:SerumMagnesium ; cg:value 17 ; cg:unit "mg/dL" ; {TIME}'), "17 mg/dL"),
    "double": (observation(f'a dk:SerumMagnesium ; cg:value 1.4e0 ; cg:unit "mg/dL" ; {TIME}'), "decimal"),
    "text": (observation(f'a dk:SerumMagnesium ; cg:value "1.4" ; cg:unit "mg/dL" ; {TIME}'), "decimal"),
    "not a number": (observation(f'a dk:SerumMagnesium ; cg:value "NaN"^^xsd:double ; cg:unit "mg/dL" ; {TIME}'), "NaN"),
    "infinite": (observation(f'a dk:SerumMagnesium ; cg:value "INF"^^xsd:double ; cg:unit "mg/dL" ; {TIME}'), "INF"),
    "broken decimal": (observation(f'a dk:SerumMagnesium ; cg:value "1,4"^^xsd:decimal ; cg:unit "mg/dL" ; {TIME}'), "1,4"),
    "no value": (observation(f'a dk:SerumMagnesium ; cg:unit "mg/dL" ; {TIME}'), "value"),
    "two values": (observation(f'a dk:SerumMagnesium ; cg:value 1.4 , 1.9 ; cg:unit "mg/dL" ; {TIME}'), "value"),
    "no time": (observation('a dk:SerumMagnesium ; cg:value 1.4 ; cg:unit "mg/dL"'), "time"),
    "time without zone": (
        observation('a dk:SerumMagnesium ; cg:value 1.4 ; cg:unit "mg/dL" ; cg:time "2026-02-10T06:40:00"^^xsd:dateTime'),
        "zone",
    ),
    "date": (observation('a dk:SerumMagnesium ; cg:value 1.4 ; cg:unit "mg/dL" ; cg:time "2026-02-10"'), "time"),
    "future": (
        observation('a dk:SerumMagnesium ; cg:value 1.4 ; cg:unit "mg/dL" ; cg:time "2026-02-11T06:40:00Z"^^xsd:dateTime'),
        "2026-02-11",
    ),
    "unknown class": (observation(f'a dk:SerumMagnesim ; cg:value 1.4 ; cg:unit "mg/dL" ; {TIME}'), "SerumMagnesim"),
    "unknown phase": (
        observation(f'a dk:SerumMagnesium ; cg:value 1.4 ; cg:unit "mg/dL" ; {TIME.replace("PreDialysis", "Dialysis")}'),
        "phase",
    ),
    "no class": (observation(f'cg:value 1.4 ; cg:unit "mg/dL" ; {TIME}'), "class"),
    "a conclusion": (
        observation(f'a dk:MagnesiumResultAtTarget ; cg:value 1.4 ; cg:unit "mg/dL" ; {TIME}'),
        "MagnesiumResultAtTarget",
    ),
    "a derived property": (
        observation(f'a dk:SerumMagnesium ; cg:value 1.4 ; cg:canonicalValue 9.0 ; cg:unit "mg/dL" ; {TIME}'),
        "canonicalValue",
    ),
}

REFUSED = {
    "no facts": ("ex:Bad a cg:Patient .\n", "no facts"),
    "a blank patient": (f"[] a cg:Patient ; {START} .\n", "IRI"),
    "a class where a finding belongs": (f"ex:Bad a cg:Patient ; {START} ; cg:hasFinding dk:MuscleCramp .\n", "MuscleCramp"),
    "unknown finding": (f"ex:Bad a cg:Patient ; {START} ; cg:hasFinding [ a dk:Twitsh ] .\n", "Twitsh"),
    "unknown state": (f"ex:Bad a cg:Patient ; {START} ; cg:hasFinding [ a dk:Twitch ; cg:state cg:Ongoing ] .\n", "Ongoing"),
    "misspelt link": (f"ex:Bad a cg:Patient ; {START} ; cg:hasFindng [ a dk:Twitch ] .\n", "hasFindng"),
    "an asserted conclusion": (f"ex:Bad a cg:Patient , dk:MagnesiumAdequate ; {START} .\n", "MagnesiumAdequate"),
    "an asserted answer": (f"ex:Bad a cg:Patient ; {START} ; cg:recommended dk:StartBaclofen .\n", "recommended"),
    "dose without unit": (f"ex:Bad a cg:Patient ; {START} ; cg:hasMedication [ a dk:Baclofen ; cg:dailyDose 30 ] .\n", "unit"),
    "dose as text": (
        f'ex:Bad a cg:Patient ; {START} ; cg:hasMedication [ a dk:Baclofen ; cg:dailyDose "30" ; cg:unit "mg/d" ] .\n',
        "decimal",
    ),
    "session without start": (f"ex:Bad a cg:Patient ; {START} ; cg:hasSession [ a dk:HaemodialysisSession ] .\n", "start"),
    "end before start": (
        f"ex:Bad a cg:Patient ; {START} ; cg:hasSession [ a dk:HaemodialysisSession ;"
        ' cg:start "2026-02-10T11:00:00Z"^^xsd:dateTime ; cg:end "2026-02-10T07:00:00Z"^^xsd:dateTime ] .\n',
        "end",
    ),
    "a finding of two patients": (
        f"ex:Bad a cg:Patient ; {START} ; cg:hasFinding ex:f . ex:Other a cg:Patient ; cg:hasFinding ex:f . ex:f a dk:Twitch .\n",
        "patient",
    ),
    "bad setting": (
        "ex:Bad a cg:Patient ; cg:hasFinding [ a dk:MuscleCramp ] ; cg:hasTreatment [ a dk:Haemodialysis ; cg:hasSetting"
        ' [ a dk:DialysateSodium ; cg:value 1480 ; cg:unit "mmol/L" ] ] .\n',
        "1480",
    ),
}


def run(*arguments: str, data: bytes | None = None) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [*arguments], input=data)
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    return result.exit_code, result.stdout, result.stderr


def assess(path: Path, *options: str) -> tuple[int, dict[str, Any]]:
    code, out, _ = run("assess", str(path), "--as-of", AS_OF, "--format", "json", *options)
    document = json.loads(out)
    return code, {p["patient"].rsplit("/", 1)[-1]: p for p in document["patients"]}


def status(patient: dict[str, Any], name: str) -> str | None:
    return next((r["status"] for r in patient["recommendations"] if r["name"] == name), None)


@pytest.mark.parametrize("case", SET_ASIDE)
def test_a_bad_observation_is_set_aside_and_counts_as_missing(case: str, tmp_path: Path) -> None:
    facts, said = SET_ASIDE[case]
    path = tmp_path / "facts.ttl"
    path.write_text(PREFIXES + GOOD + facts, encoding="utf-8")
    code, patients = assess(path)
    assert code == 1
    bad = patients["Bad"]
    assert "refused" not in bad
    assert any(said in v["message"] or said == v["value"] for v in bad["setAside"]), bad["setAside"]
    assert status(bad, "MeasureSerumMagnesium") == "recommended"
    assert status(bad, "AdjustDialysateMagnesium") == "undetermined"
    assert status(patients["Good"], "MeasureSerumMagnesium") == "recommended"
    code, patients = assess(path, "--strict")
    assert code == 1
    assert patients["Bad"]["refused"]
    assert patients["Bad"]["recommendations"] == []
    assert patients["Good"]["recommendations"]


@pytest.mark.parametrize("case", REFUSED)
def test_any_other_bad_fact_refuses_its_patient_and_nobody_else(case: str, tmp_path: Path) -> None:
    facts, said = REFUSED[case]
    path = tmp_path / "facts.ttl"
    path.write_text(PREFIXES + GOOD + facts, encoding="utf-8")
    code, patients = assess(path)
    assert code == 1
    refused = {name: p for name, p in patients.items() if p.get("refused")}
    assert refused
    assert "Good" not in refused
    for patient in refused.values():
        assert any(said in v["message"] or said in (v["value"] or "") for v in patient["refused"]), patient["refused"]
        assert patient["recommendations"] == patient["prohibitions"] == patient["cautions"] == []
    assert patients["Good"]["recommendations"]


def test_an_observation_of_two_patients_is_set_aside_for_both(tmp_path: Path) -> None:
    path = tmp_path / "facts.ttl"
    shared = f'ex:o a dk:SerumMagnesium ; cg:value 1.4 ; cg:unit "mg/dL" ; {TIME} .\n'
    both = "".join(f"ex:{name} a cg:Patient ; {START} ; cg:hasObservation ex:o .\n" for name in ("A", "B"))
    path.write_text(PREFIXES + both + shared, encoding="utf-8")
    code, patients = assess(path)
    assert code == 1
    for patient in patients.values():
        assert patient["setAside"]
        assert status(patient, "MeasureSerumMagnesium") == "recommended"


def test_facts_without_a_patient_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "facts.ttl"
    path.write_text(PREFIXES + GOOD + "ex:Lost cg:hasFinding [ a dk:Twitch ] . dk:StartBaclofen cg:rank 1 .\n", encoding="utf-8")
    code, out, _ = run("assess", str(path), "--as-of", AS_OF)
    assert code == 1
    assert "NOT READ" in out
    assert "ex" in out
    assert "StartBaclofen" in out.split("NOT READ")[1]


CANNOT_RUN = {
    "empty.ttl": (b"", "no patient"),
    "other.ttl": (b"<urn:a> <urn:b> <urn:c> .", "no patient"),
    "syntax.ttl": (b"@prefix cg: <https://w3id.org/kbtool/cg/> .\n<urn:p> a cg:Patient ;; \n cg:oops [ .", "line 3"),
    "prefix.ttl": (b"<urn:p> a cg:Patient .", "line 1, column"),
    "latin.ttl": ("# J\xfcrgen\n".encode("latin-1"), "UTF-8"),
    "broken.jsonld": (b'{"@id": "urn:p",\n "@type": }', "line 2, column"),
    "remote.jsonld": (b'{"@context": "https://example.org/c.jsonld", "@id": "urn:p"}', "nothing is fetched"),
    "file.jsonld": (b'{"@context": ["file:///etc/passwd"], "@id": "urn:p"}', "nothing is fetched"),
    "import.jsonld": (
        b'{"@context": {"@version": 1.1, "@import": "https://example.org/c"}, "@id": "urn:p"}',
        "nothing is fetched",
    ),
    "space.jsonld": (b'{"@id": "urn:a patient", "@type": "https://w3id.org/kbtool/cg/Patient"}', "not an IRI"),
    "nan.jsonld": (b'{"@id": "urn:p", "https://w3id.org/kbtool/cg/value": NaN}', "not"),
    "deep.jsonld": (b"[" * 100000, "JSON"),
    "imports.ttl": (b"<urn:o> <http://www.w3.org/2002/07/owl#imports> <file:///etc/passwd> .", "nothing is fetched"),
    "bomb.rdf": (
        b'<?xml version="1.0"?><!DOCTYPE r [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>'
        b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="urn:p">'
        b'<x xmlns="urn:x">&b;</x>'
        b"</rdf:Description></rdf:RDF>",
        "entity",
    ),
    "external.rdf": (
        b'<?xml version="1.0"?><!DOCTYPE r [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
        b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"/>',
        "entity",
    ),
    "noise.nt": (os.urandom(4096), "UTF-8"),
    "facts.docx": (b"PK", "unknown ending"),
}


@pytest.mark.parametrize("name", CANNOT_RUN)
def test_a_source_that_cannot_be_read_is_named_with_the_place(name: str, tmp_path: Path) -> None:
    data, said = CANNOT_RUN[name]
    path = tmp_path / name
    path.write_bytes(data)
    code, _, err = run("assess", str(path), "--as-of", AS_OF)
    assert code == 2
    assert said in err
    if said != "no patient":
        assert name in err


def test_the_other_files_are_still_answered(tmp_path: Path) -> None:
    (tmp_path / "broken.ttl").write_text("oops", encoding="utf-8")
    (tmp_path / "good.ttl").write_text(PREFIXES + GOOD, encoding="utf-8")
    code, out, err = run("assess", str(tmp_path), "--as-of", AS_OF)
    assert code == 2
    assert "broken.ttl: line 1" in err
    assert "DO NOW" in out


def test_a_missing_file_an_empty_folder_and_a_bad_time(tmp_path: Path) -> None:
    for arguments, said in (
        ((str(tmp_path / "none.ttl"),), "none.ttl: cannot be read"),
        ((str(tmp_path),), "no facts in this folder"),
        ((str(FOLDER / "P01.ttl"), "--as-of", "yesterday"), "not a date and time"),
        ((str(FOLDER / "P01.ttl"), "--as-of", "2026-02-10T12:00:00"), "no time zone"),
        ((str(FOLDER / "P01.ttl"), "--ontology", str(tmp_path / "kb.ttl")), "kb.ttl: cannot be read"),
    ):
        code, _, err = run("assess", *arguments)
        assert code == 2
        assert said in err


def test_standard_input(tmp_path: Path) -> None:
    for data in (
        (FOLDER / "P01.ttl").read_bytes(),
        b'{"@id": "https://example.org/patient/P01", "@type": "https://w3id.org/kbtool/cg/Patient",'
        b' "https://w3id.org/kbtool/cg/hasTreatment": {"@type": "https://w3id.org/kbtool/dialysis/Haemodialysis"}}',
    ):
        code, out, _ = run("assess", "-", "--as-of", AS_OF, data=data)
        assert code == 0
        assert "PATIENT https://example.org/patient/P01" in out


def test_an_entity_that_is_a_namespace_is_read(tmp_path: Path) -> None:
    path = tmp_path / "facts.rdf"
    path.write_text(
        '<?xml version="1.0"?><!DOCTYPE rdf:RDF [<!ENTITY dk "https://w3id.org/kbtool/dialysis/">]>'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:cg="https://w3id.org/kbtool/cg/">'
        '<cg:Patient rdf:about="urn:x:p"><cg:hasTreatment><rdf:Description><rdf:type rdf:resource="&dk;Haemodialysis"/>'
        "</rdf:Description></cg:hasTreatment></cg:Patient></rdf:RDF>",
        encoding="utf-8",
    )
    code, patients = assess(path)
    assert code == 0
    assert patients["urn:x:p"]["inScope"]


def test_json_numbers_keep_their_digits(tmp_path: Path) -> None:
    cg = "https://w3id.org/kbtool/cg/"
    dk = "https://w3id.org/kbtool/dialysis/"
    facts = {
        "@context": {"cg": cg, "dk": dk, "time": {"@id": "cg:time", "@type": "http://www.w3.org/2001/XMLSchema#dateTime"}},
        "@id": "https://example.org/patient/J",
        "@type": "cg:Patient",
        "cg:hasTreatment": {"@type": "dk:Haemodialysis"},
        "cg:hasFinding": {"@type": "dk:Twitch"},
        "cg:hasObservation": {
            "@type": "dk:SerumMagnesium",
            "cg:value": 0.125,
            "cg:unit": "mmol/L",
            "time": "2026-02-10T06:40:00Z",
            "cg:phase": {"@id": "dk:PreDialysis"},
        },
    }
    path = tmp_path / "facts.jsonld"
    path.write_text(json.dumps(facts).replace("0.125", "0.70"), encoding="utf-8")
    code, patients = assess(path)
    assert code == 0
    assert status(patients["J"], "MeasureSerumMagnesium") == "satisfied"
    assert status(patients["J"], "AdjustDialysateMagnesium") is None
    values = {f["value"] for r in patients["J"]["recommendations"] for f in r["because"] if f["name"] == "SerumMagnesium"}
    assert values == {"0.70"}


def test_no_traceback_and_nothing_about_the_patient_on_standard_error(tmp_path: Path) -> None:
    path = tmp_path / "facts.ttl"
    path.write_text(PREFIXES + SET_ASIDE["implausible"][0], encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "kbtool", "assess", str(path), "--as-of", AS_OF], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == ""
    assert "SET ASIDE" in done.stdout
    assert done.stdout.index("SET ASIDE") < done.stdout.index("DO NOW")


@pytest.mark.deep
@pytest.mark.parametrize("kind", ["nt", "ttl", "rdf", "jsonld"])
def test_a_hundred_megabytes_of_noise(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"noise.{kind}"
    line = b"lorem ipsum dolor sit amet <&> {} [] \" ' consectetur\n"
    path.write_bytes(line * (100 * 2**20 // len(line)))
    code, _, err = run("assess", str(path), "--as-of", AS_OF)
    assert code == 2
    assert f"noise.{kind}" in err

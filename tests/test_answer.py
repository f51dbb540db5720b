"""The answer: its JSON schema, its order, and the Python interface."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from rdflib import Graph, URIRef

import kbtool

FOLDER = Path(__file__).parent / "patients"
AS_OF = "2026-02-10T12:00:00Z"
SCHEMA = json.loads((Path(kbtool.__file__).parent / "assess.schema.json").read_text(encoding="utf-8"))
CG = "https://w3id.org/kbtool/cg/"


@pytest.fixture(scope="module")
def kb() -> kbtool.KnowledgeBase:
    return kbtool.load()


@pytest.fixture(scope="module")
def everything(kb: kbtool.KnowledgeBase) -> kbtool.Result:
    return kb.assess(FOLDER, as_of=AS_OF)


def test_every_answer_fits_the_schema(everything: kbtool.Result) -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert [e.message for e in Draft202012Validator(SCHEMA).iter_errors(everything.to_json())] == []


def test_the_schema_refuses_what_it_does_not_know(everything: kbtool.Result) -> None:
    document = everything.to_json()
    document["patients"][0]["recommendations"][0]["status"] = "perhaps"
    assert list(Draft202012Validator(SCHEMA).iter_errors(document))


def test_a_refused_patient_fits_the_schema(kb: kbtool.KnowledgeBase) -> None:
    result = kb.assess(b"@prefix cg: <https://w3id.org/kbtool/cg/> . <urn:x:p> a cg:Patient .", as_of=AS_OF)
    document = result.to_json()
    assert document["patients"][0]["refused"]
    assert list(Draft202012Validator(SCHEMA).iter_errors(document)) == []


def test_order_is_by_step_and_rank_and_never_by_hash(kb: kbtool.KnowledgeBase, everything: kbtool.Result) -> None:
    again = kb.assess(FOLDER, as_of=AS_OF)
    assert json.dumps(again.to_json()) == json.dumps(everything.to_json())
    steps = [r["step"] for r in everything["P14"].data["recommendations"]]
    assert steps[0] == "StepAcuteEpisode"
    assert steps == sorted(steps, key=list(dict.fromkeys(steps)).index)


def test_emergencies_and_hard_stops_come_first(everything: kbtool.Result) -> None:
    assert everything["P20"].data["assessments"][0]["emergency"]
    assert everything["P22"].data["prohibitions"][0]["hardStop"]


def test_interface(kb: kbtool.KnowledgeBase) -> None:
    result = kb.assess(FOLDER / "P01.ttl", as_of=AS_OF)
    patient = result["ex:P01"]
    assert patient is result["P01"] is result["https://example.org/patient/P01"]
    assert patient.recommended[0] == "AdjustDialysateMagnesium"
    assert "CorrectHypokalaemia" in patient.blocked
    assert "magnesium adequate" in patient.explain("CorrectHypokalaemia")
    assert patient.why("CorrectHypokalaemia")["blockedBy"] == ["MagnesiumAdequate"]
    with pytest.raises(KeyError, match="no rule of this name"):
        patient.explain("NoSuchRule")
    with pytest.raises(KeyError, match="0 patients"):
        result["P99"]
    assert result.conforms
    graph = patient.to_graph()
    about = URIRef("https://example.org/patient/P01")
    names = {str(o).rsplit("/", 1)[-1] for o in graph.objects(about, URIRef(CG + "recommended"))}
    assert names == set(patient.recommended)


def test_bytes_and_rdflib_graphs_give_the_same_answer(kb: kbtool.KnowledgeBase) -> None:
    path = FOLDER / "P05.ttl"
    graph = Graph().parse(path)
    results = [kb.assess(source, as_of=AS_OF)["P05"] for source in (path, path.read_bytes(), graph)]
    assert results[0].recommended == results[1].recommended == results[2].recommended
    assert results[0].missing == results[1].missing == results[2].missing


@pytest.mark.parametrize("suffix", ["jsonld", "nt", "rdf"])
def test_every_format_gives_the_same_answer(kb: kbtool.KnowledgeBase, tmp_path: Path, suffix: str) -> None:
    form = {"jsonld": "json-ld", "nt": "nt", "rdf": "pretty-xml"}[suffix]
    for name in ("P01", "P12", "P15", "P22"):
        target = tmp_path / f"{name}.{suffix}"
        Graph().parse(FOLDER / f"{name}.ttl").serialize(target, format=form)
        ours = kb.assess(target, as_of=AS_OF)[name].data["recommendations"]
        theirs = kb.assess(FOLDER / f"{name}.ttl", as_of=AS_OF)[name].data["recommendations"]
        assert [(r["name"], r["status"]) for r in ours] == [(r["name"], r["status"]) for r in theirs]


def test_reported_digits_are_kept(kb: kbtool.KnowledgeBase) -> None:
    text = (FOLDER / "P01.ttl").read_text(encoding="utf-8").replace("cg:value 1.4 ", "cg:value 1.400 ")
    facts = [
        f
        for r in kb.assess(text.encode(), as_of=AS_OF)["P01"].data["recommendations"]
        for f in r["because"]
        if f["name"] == "SerumMagnesium"
    ]
    assert {f["value"] for f in facts} == {"1.400"}

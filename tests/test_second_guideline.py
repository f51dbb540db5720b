"""A guideline of another field, invented for these tests, runs with the code, queries and shapes as they are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_patients import compare

import kbtool
from kbtool.namespaces import CG

HERE = Path(__file__).parent
PROJECT = HERE.parent
ROOT = HERE / "second_guideline" / "root.ttl"
PATIENTS = HERE / "second_guideline" / "patients"
CASES = sorted(path.stem for path in PATIENTS.glob("*.ttl"))
AS_OF = "2026-03-01T09:00:00Z"


@pytest.fixture(scope="module")
def kb() -> kbtool.KnowledgeBase:
    return kbtool.load(ROOT)


def expected(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((PATIENTS / f"{name}.expected.json").read_text(encoding="utf-8"))
    return found


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "kbtool", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, encoding="utf-8", cwd=PROJECT, check=False)


@pytest.mark.parametrize("name", CASES)
def test_case(kb: kbtool.KnowledgeBase, name: str) -> None:
    want = expected(name)
    result = kb.assess(PATIENTS / f"{name}.ttl", as_of=want["asOf"])
    assert not result.unassigned
    assert compare(result[name].to_json(), want) == []


def test_each_rule_fires_in_some_patient_and_stays_silent_in_another(kb: kbtool.KnowledgeBase) -> None:
    answers = [p.to_json() for p in kb.assess(PATIENTS, as_of=AS_OF).values()]
    for kind in ("recommendations", "prohibitions", "assessments"):
        rules = {iri.rsplit("/", 1)[1] for iri in kb.knowledge.instances(CG[kind[:-1].capitalize()])}
        spoken = [{e["name"] for e in a[kind] if e.get("state") != "possible"} for a in answers]
        assert rules == set().union(*spoken)
        assert not rules & set.intersection(*spoken)


def test_command_line_with_another_ontology() -> None:
    run = command("assess", "--ontology", ROOT, PATIENTS, "--as-of", AS_OF, "--format", "json", "--quiet")
    assert run.stderr == ""
    assert run.returncode == 1, "one observation is set aside and one patient refused"
    document = json.loads(run.stdout)
    assert document["kb"]["iri"] == "https://example.org/asthma"
    answers = {p["patient"].rsplit("/", 1)[1]: p for p in document["patients"]}
    assert sorted(answers) == CASES
    assert {name: found for name in CASES if (found := compare(answers[name], expected(name)))} == {}


def test_answer_as_text_names_only_this_guideline() -> None:
    run = command("assess", "--ontology", ROOT, PATIENTS / "severe-attack.ttl", "--as-of", AS_OF)
    assert run.returncode == 0, run.stderr
    assert run.stdout.index("EMERGENCY") < run.stdout.index("HARD STOP") < run.stdout.index("DO NOW") < run.stdout.index("WAITS")
    assert "Peak flow 3 L/s" in run.stdout, "the value is shown as reported"
    assert "Relative peak flow 45 %" in " ".join(run.stdout.split()), "the derived ratio is shown with its unit"
    assert "dialysis" not in run.stdout.lower()


def test_text_lists_what_a_recommended_measurement_measures_whatever_its_name(tmp_path: Path) -> None:
    facts = tmp_path / "wheeze.ttl"
    facts.write_text(
        "@prefix asthma: <https://example.org/asthma/> . @prefix cg: <https://w3id.org/kbtool/cg/> .\n"
        "<https://example.org/patient/wheeze> a cg:Patient ; cg:hasFinding [ a asthma:Asthma ] , [ a asthma:Wheeze ] .\n",
        encoding="utf-8",
    )
    run = command("assess", "--ontology", ROOT, facts, "--as-of", AS_OF)
    assert run.returncode == 0, run.stderr
    assert "Obtain peak flow" in run.stdout
    assert "MISSING\n  - Peak flow" in run.stdout


def test_units_are_converted_and_the_next_dose_is_cut_at_the_ceiling(kb: kbtool.KnowledgeBase) -> None:
    answer = kb.assess(PATIENTS / "step-up.ttl", as_of=AS_OF)["step-up"].to_json()
    increase = next(r for r in answer["recommendations"] if r["name"] == "IncreaseBudesonide")
    parameters = {p["name"]: p for p in increase["parameters"]}
    assert float(parameters["NextDose"]["value"]) == 800, "0.7 mg and one step of 200 ug would be 900 ug"
    assert parameters["NextDose"]["unit"] == "ug/d"
    assert float(parameters["Ceiling"]["maxInclusive"]) == 800


@pytest.mark.parametrize(
    ("old", "new", "name", "before", "after"),
    [
        ("xsd:maxExclusive 50.0", "xsd:maxExclusive 45.0", "severe-attack", "recommended", "undetermined"),
        ("xsd:minInclusive 38.5", "xsd:minInclusive 38.6", "feverish-attack", "recommended", "undetermined"),
    ],
)
def test_a_changed_threshold_changes_the_answer(tmp_path: Path, old: str, new: str, name: str, before: str, after: str) -> None:
    copy = copied(tmp_path, catalog="")
    rules = copy.parent / "rules.ttl"
    text = rules.read_text(encoding="utf-8")
    assert text.count(old) == 1
    statuses = []
    for version in (text, text.replace(old, new)):
        rules.write_text(version, encoding="utf-8")
        answer = kbtool.load(copy).assess(PATIENTS / f"{name}.ttl", as_of=AS_OF)[name].to_json()
        statuses += [r["status"] for r in answer["recommendations"] if r["name"] == "ReferToHospital"]
    assert statuses == [before, after]


def copied(folder: Path, catalog: str) -> Path:
    """A copy of the guideline elsewhere, with extra lines in its catalog; the guideline language is not beside it."""
    for file in ("root.ttl", "vocabulary.ttl", "rules.ttl"):
        (folder / file).write_bytes((ROOT.parent / file).read_bytes())
    modules = {"": "root", "/vocabulary": "vocabulary", "/rules": "rules"}
    own = "".join(f'<uri name="https://example.org/asthma{iri}" uri="{file}.ttl"/>' for iri, file in modules.items())
    (folder / "catalog-v001.xml").write_text(
        f'<catalog xmlns="urn:oasis:names:tc:entity:xmlns:xml:catalog">{own}{catalog}</catalog>', encoding="utf-8"
    )
    return folder / "root.ttl"


def test_the_guideline_language_is_found_from_anywhere(tmp_path: Path) -> None:
    kb = kbtool.load(copied(tmp_path, catalog=""))
    assert (PROJECT / "ontology" / "model.ttl").resolve() in {file.resolve() for file in kb.knowledge.modules.values()}
    result = kb.assess(PATIENTS / "severe-attack.ttl", as_of=AS_OF)
    assert compare(result["severe-attack"].to_json(), expected("severe-attack")) == []


def test_nothing_of_the_shipped_guideline_is_loaded(kb: kbtool.KnowledgeBase) -> None:
    own = {"https://example.org/asthma", "https://example.org/asthma/rules", "https://example.org/asthma/vocabulary"}
    assert set(kb.knowledge.modules) == {*own, "https://w3id.org/kbtool/cg"}
    named = {str(term) for q in kb.knowledge.graph for term in (q.subject, q.predicate, q.object)}
    assert not [term for term in named if term.startswith("<https://w3id.org/kbtool/dialysis")]


def test_two_guidelines_side_by_side(tmp_path: Path) -> None:
    shipped = {iri: file for iri, file in kbtool.load().knowledge.modules.items() if iri != "https://w3id.org/kbtool/cg"}
    copied(tmp_path, catalog="".join(f'<uri name="{iri}" uri="{file}"/>' for iri, file in shipped.items()))
    both = tmp_path / "both.ttl"
    both.write_text(
        "@prefix owl: <http://www.w3.org/2002/07/owl#> .\n<https://example.org/both> a owl:Ontology ;\n"
        "  owl:imports <https://example.org/asthma> , <https://w3id.org/kbtool/dialysis> .\n",
        encoding="utf-8",
    )
    kb = kbtool.load(both)
    asthma = kb.assess(PATIENTS, as_of=AS_OF)
    golden = HERE / "patients"
    dialysis = kb.assess(golden / "P01.ttl", golden / "P22.ttl", as_of="2026-02-10T12:00:00Z")
    wanted = {name: json.loads((golden / f"{name}.expected.json").read_text(encoding="utf-8")) for name in ("P01", "P22")}
    assert {name: found for name in CASES if (found := compare(asthma[name].to_json(), expected(name)))} == {}
    assert {name: found for name in wanted if (found := compare(dialysis[name].to_json(), wanted[name]))} == {}


def test_terms_and_export_of_another_ontology(tmp_path: Path) -> None:
    terms = command("terms", "--ontology", ROOT, "peak", "--format", "json")
    assert terms.returncode == 0, terms.stderr
    assert {t["name"] for t in json.loads(terms.stdout)} == {"PeakFlow", "BestPeakFlow", "RelativePeakFlow"}
    folder = tmp_path / "steps"
    export = command("export", "--ontology", ROOT, folder)
    assert export.returncode == 0, export.stderr
    steps = [file for file in folder.rglob("*") if file.suffix in (".ru", ".nt")]
    assert len(steps) > 5
    assert not [file.name for file in steps if "kbtool/dialysis" in file.read_text(encoding="utf-8")]


@pytest.mark.deep
def test_it_keeps_to_the_style_guide_of_knowledge() -> None:
    import pyshacl
    from rdflib import Graph

    knowledge = Graph().parse(PROJECT / "ontology" / "model.ttl")
    for file in ("root.ttl", "vocabulary.ttl", "rules.ttl"):
        knowledge.parse(ROOT.parent / file)
    shapes = Graph().parse(PROJECT / "shapes" / "knowledge.ttl")
    conforms, _, text = pyshacl.validate(knowledge, shacl_graph=shapes, advanced=True)
    assert conforms, text

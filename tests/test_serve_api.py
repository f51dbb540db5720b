"""What `kbtool serve` answers besides SPARQL, held against the Python interface, and against what it says of itself."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jsonschema
import pyoxigraph as ox
import pytest
import serving
from openapi_spec_validator import OpenAPIV31SpecValidator
from serving import AS_OF, TOKEN, Answer, Served

import kbtool

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "tests" / "patients"
NAMES = ["P01", "P12", "P22", "Overlay-baclofen-coma", "Refused-dose-unit"]
BEARER = {"authorization": f"Bearer {TOKEN}"}
AT = "?" + urlencode({"asOf": AS_OF})
TURTLE = "text/turtle"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving.running(tmp_path_factory.mktemp("api")) as server:
        yield server


@pytest.fixture(scope="module")
def keeping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that keeps facts of patients."""
    folder = tmp_path_factory.mktemp("keeping")
    (folder / "facts").mkdir()
    for name in NAMES:
        (folder / "facts" / f"{name}.ttl").write_text(facts(name), encoding="utf-8")
    (folder / "token").write_text(TOKEN + "\n", encoding="utf-8")
    options = ["--facts", str(folder / "facts"), "--token-file", str(folder / "token"), "--as-of", AS_OF]
    with serving.running(folder, *options) as server:
        yield server


@pytest.fixture(scope="module")
def kb() -> kbtool.KnowledgeBase:
    return kbtool.load()


def facts(name: str) -> str:
    return (FOLDER / f"{name}.ttl").read_text(encoding="utf-8")


def as_of(name: str) -> str:
    return str(json.loads((FOLDER / f"{name}.expected.json").read_text(encoding="utf-8")).get("asOf", AS_OF))


# Patients in the body


@pytest.mark.parametrize("name", NAMES)
def test_assess_answers_as_the_python_interface(served: Served, kb: kbtool.KnowledgeBase, name: str) -> None:
    answer = served.post("/assess" + AT, facts(name), content_type=TURTLE)
    assert answer.status == 200
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json == json.loads(json.dumps(kb.assess(facts(name).encode(), as_of=AS_OF).to_json()))


def test_nothing_carries_over_from_one_patient_to_the_next(served: Served, kb: kbtool.KnowledgeBase) -> None:
    expected = {name: json.loads(json.dumps(kb.assess(facts(name).encode(), as_of=AS_OF).to_json())) for name in NAMES}
    rule = expected["P01"]["patients"][0]["recommendations"][0]["name"]
    for turn in range(4):
        for name in NAMES if turn % 2 else NAMES[::-1]:
            assert served.post("/assess" + AT, facts(name), content_type=TURTLE).json == expected[name]
            served.post("/validate" + AT, facts(name), content_type=TURTLE)
            served.post(f"/explain{AT}&rule={rule}", facts(name), content_type=TURTLE)
            page = served.post("/assess" + AT, facts(name), content_type=TURTLE, accept="text/html").text
            others = {p["patient"] for other in NAMES if other != name for p in expected[other]["patients"]}
            assert not any(f"{each}<" in page for each in others)


def test_assess_conforms_to_its_schema(served: Served) -> None:
    schema = json.loads((ROOT / "kbtool" / "assess.schema.json").read_text(encoding="utf-8"))
    everybody = "\n".join(facts(name) for name in NAMES)
    for asked in ("", "&explain=true", "&strict=true"):
        answer = served.post("/assess" + AT + asked, everybody, content_type=TURTLE)
        jsonschema.Draft202012Validator(schema).validate(answer.json)
        assert len(answer.json["patients"]) == len(NAMES)
        assert any(each.get("explanations") for each in answer.json["patients"]) is ("explain" in asked)


FORMATS = {
    TURTLE: ox.RdfFormat.TURTLE,
    "application/n-triples": ox.RdfFormat.N_TRIPLES,
    "application/ld+json": ox.RdfFormat.JSON_LD,
    "application/rdf+xml": ox.RdfFormat.RDF_XML,
}


@pytest.mark.parametrize("media", [*FORMATS, "", "application/json", "text/plain", "application/octet-stream"])
def test_every_format_says_the_same(served: Served, media: str) -> None:
    form = FORMATS.get(media, ox.RdfFormat.JSON_LD if media == "application/json" else ox.RdfFormat.TURTLE)
    triples = (quad.triple for quad in ox.parse(facts("P01"), ox.RdfFormat.TURTLE))
    answer = served.post("/assess" + AT, ox.serialize(triples, format=form) or b"", **({"content_type": media} if media else {}))
    expected = served.post("/assess" + AT, facts("P01"), content_type=TURTLE).json
    statuses = [[(r["name"], r["status"]) for r in found["patients"][0]["recommendations"]] for found in (answer.json, expected)]
    assert statuses[0] == statuses[1] != []


def test_every_form_of_answers(served: Served) -> None:
    def assess(accept: str) -> Answer:
        return served.post("/assess" + AT, facts("P01"), content_type=TURTLE, accept=accept)

    recommended = {
        r["name"] for r in assess("application/json").json["patients"][0]["recommendations"] if r["status"] == "recommended"
    }
    assert recommended
    triples = [quad.triple for quad in ox.parse(assess(TURTLE).body, ox.RdfFormat.TURTLE)]
    found = {str(t.object.value) for t in triples if t.predicate.value == "https://w3id.org/kbtool/cg/recommended"}
    assert {re.split("[/#]", iri)[-1] for iri in found} == recommended
    page = assess("text/html")
    assert page.media == "text/html"
    assert "<html" in page.text
    text = assess("text/plain")
    assert text.media == "text/plain"
    assert len(text.text.splitlines()) > 10
    bundle = assess("application/fhir+json")
    assert bundle.json["resourceType"] == "Bundle"
    assert assess("image/png").status == 406


def test_time_and_mistakes(served: Served) -> None:
    def assess(asked: str, body: str = facts("P01"), kind: str = TURTLE) -> Answer:
        return served.post("/assess" + asked, body, content_type=kind)

    assert assess("?asOf=2026-02-10T12:00:00%2B01:00").json["asOf"] == "2026-02-10T12:00:00+01:00"
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", assess("").json["asOf"])
    for asked in ("?asOf=yesterday", "?asOf=2026-02-10", "?asOf=2026-02-10T12:00:00"):
        assert assess(asked).status == 400
        assert "T12:00:00Z" in assess(asked).detail
    bad = assess(AT, "@prefix cg: <https://w3id.org/kbtool/cg/> .\n<urn:x:p> a cg:Patient ;\n  cg:oops")
    assert bad.status == 400
    assert "line 3" in bad.detail
    assert "<bytes>" not in bad.detail
    assert assess(AT, "<urn:x:a> <urn:x:b> <urn:x:c> .").status == 422
    assert assess(AT, kind="image/png").status == 415
    assert "text/turtle" in assess(AT, kind="image/png").detail


def test_validate(served: Served) -> None:
    fine = served.post("/validate" + AT, facts("P01"), content_type=TURTLE).json
    assert fine["conforms"] is True
    assert fine["patients"] == 1
    assert all(each["effect"] == "warning" for each in fine["violations"])
    bad = served.post("/validate" + AT, facts("Refused-dose-unit"), content_type=TURTLE).json
    assert bad["conforms"] is False
    assert {each["effect"] for each in bad["violations"]} & {"refused", "setAside"}
    assert all(each["message"] for each in bad["violations"])
    stray = served.post("/validate" + AT, facts("P01") + "\n<urn:x:o> cg:value 1 .", content_type=TURTLE).json
    assert stray["conforms"] is False
    assert stray["unassigned"]


def test_explain(served: Served, kb: kbtool.KnowledgeBase) -> None:
    rule = kb.assess(facts("P01").encode(), as_of=AS_OF)["P01"].recommended[0]
    answer = served.post(f"/explain{AT}&rule={rule}", facts("P01"), content_type=TURTLE)
    (patient,) = answer.json["patients"]
    assert patient["explanation"]
    assert patient["refused"] == []
    text = served.post(f"/explain{AT}&rule={rule}", facts("P01"), content_type=TURTLE, accept="text/plain")
    assert text.media == "text/plain"
    assert len(text.text.splitlines()) > 2
    assert served.post(f"/explain{AT}&rule=Nothing", facts("P01"), content_type=TURTLE).status == 404
    assert served.post(f"/explain{AT}", facts("P01"), content_type=TURTLE).status == 400
    refused = served.post(f"/explain{AT}&rule={rule}", facts("Refused-dose-unit"), content_type=TURTLE).json["patients"][0]
    assert refused["refused"]
    assert refused["explanation"] is None


def test_query_of_facts(served: Served, kb: kbtool.KnowledgeBase) -> None:
    query = "SELECT ?rule { ?p a cg:Patient ; cg:recommended ?rule }"

    def ask(sent: Any, **headers: str) -> Answer:
        return served.post("/query", json.dumps(sent), **{"content_type": "application/json", **headers})

    answer = ask({"query": query, "facts": facts("P01"), "asOf": AS_OF})
    found = {re.split("[/#]", row["rule"]["value"])[-1] for row in answer.json["results"]["bindings"]}
    assert found == set(kb.assess(facts("P01").encode(), as_of=AS_OF)["P01"].recommended)
    assert ask({"query": query, "facts": facts("P01"), "format": TURTLE}, accept="text/csv").media == "text/csv"
    document = json.loads(
        ox.serialize((q.triple for q in ox.parse(facts("P01"), ox.RdfFormat.TURTLE)), format=ox.RdfFormat.JSON_LD) or b""
    )
    assert ask({"query": query, "facts": json.dumps(document), "asOf": AS_OF}).json["results"] == answer.json["results"]
    for wrong in (
        [],
        "x",
        {},
        {"query": 1, "facts": ""},
        {"query": query},
        {"query": query, "facts": 5},
        {"facts": facts("P01")},
    ):
        assert ask(wrong).status == 400
    assert ask({"query": query, "facts": facts("P01"), "format": "image/png"}).status == 415
    assert ask({"query": query, "facts": facts("P01"), "asOf": "x"}).status == 400
    assert ask({"query": "oops", "facts": facts("P01")}).status == 400
    assert ask({"query": query, "facts": "\ud800"}).status in (400, 422)
    assert served.post("/query", "{", content_type="application/json").status == 400
    graphs = ask({"query": "SELECT DISTINCT ?g { GRAPH ?g { ?p a cg:Patient } }", "facts": facts("P01")}).json["results"][
        "bindings"
    ]
    assert [row["g"]["value"].rpartition("/")[2] for row in graphs] == ["facts"]


# Patients that stay


def test_patients_that_stay_are_answered_as_posted_ones(served: Served, keeping: Served) -> None:
    listed = keeping.get("/patients", **BEARER).json
    assert listed["asOf"] == AS_OF
    assert listed["patients"] == sorted(listed["patients"])
    assert len(listed["patients"]) == len(NAMES)
    assert any("refused" in line for line in listed["notAccepted"])
    everybody = keeping.post("/patients/assess" + AT, "", **BEARER).json
    assert sorted(p["patient"] for p in everybody["patients"]) == listed["patients"]
    for name in NAMES:
        posted = served.post("/assess" + AT, facts(name), content_type=TURTLE).json["patients"][0]
        (one,) = keeping.post("/patients/assess" + AT, json.dumps([posted["patient"]]), **BEARER).json["patients"]
        for kind in ("recommendations", "prohibitions", "assessments"):
            statuses = [[(r["name"], r.get("status", r.get("state"))) for r in p.get(kind, [])] for p in (one, posted)]
            assert statuses[0] == statuses[1]
    for wrong in ("{", "{}", "[1]", '"x"'):
        assert keeping.post("/patients/assess", wrong, **BEARER).status == 400


def test_patients_that_stay_are_queried(keeping: Served, kb: kbtool.KnowledgeBase) -> None:
    """Every query that comes with the knowledge runs, and gives what `kbtool query` gives for the same facts."""
    store = kb.store(*(FOLDER / f"{name}.ttl" for name in NAMES), as_of=AS_OF)
    for file in sorted((ROOT / "queries" / "ask").glob("*.rq")):
        text = file.read_text(encoding="utf-8")
        answer = keeping.query(text, accept="application/sparql-results+json, text/turtle", **BEARER)
        assert answer.status == 200, (file.name, answer.text)
        result: Any = store.query(text, prefixes=kb.knowledge.prefixes)
        if isinstance(result, ox.QuerySolutions):
            expected = json.loads(result.serialize(format=ox.QueryResultsFormat.JSON) or b"")
            assert _rows(answer.json) == _rows(expected), file.name


def _rows(found: Any) -> list[str]:
    """Rows without the names that nodes got when they were read."""
    return sorted(re.sub(r"genid/[\w-]+|_:[\w]+", "_", json.dumps(row, sort_keys=True)) for row in found["results"]["bindings"])


def test_nothing_stays_without_being_told_to(served: Served) -> None:
    for method, path in (("GET", "/patients"), ("POST", "/patients/assess"), ("POST", "/patients/explain?rule=x")):
        answer = served.request(method, path, "" if method == "POST" else None)
        assert answer.status == 404
        assert "/assess" in answer.detail


# What the service says of itself


def test_kb(served: Served, kb: kbtool.KnowledgeBase) -> None:
    found = served.get("/kb").json
    assert {key: found[key] for key in kb.about} == kb.about
    assert {module["iri"] for module in found["modules"]} == set(kb.knowledge.modules)
    assert found["kbtool"] == kbtool.__version__


def test_health_and_metrics(served: Served) -> None:
    assert served.get("/health").json == {"status": "ok"}

    def figures() -> dict[str, float]:
        answer = served.get("/metrics")
        assert answer.media == "text/plain"
        lines = (line.rpartition(" ") for line in answer.text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}

    name = 'kbtool_requests_total{address="/sparql",method="POST",status="400"}'
    before = figures().get(name, 0)
    served.query("oops")
    after = figures()
    assert after[name] == before + 1
    assert after["kbtool_working"] == 0
    assert after['kbtool_request_seconds_count{address="/sparql"}'] > 0
    for _ in range(3):
        served.get("/nowhere/" + "x" * 20)
        served.request("BREW", "/sparql")
    assert not any("nowhere" in each or "BREW" in each for each in figures())


def test_unknown_addresses(served: Served) -> None:
    for path in ("/nowhere", "/sparqlx", "/kb/", "//", "/assess/x", "/openapi.yaml"):
        answer = served.get(path)
        assert answer.status in (307, 404)
        if answer.status == 307:
            assert answer.headers["location"] == served.url + "/kb"
        else:
            assert "openapi.json" in answer.detail


def test_the_guideline_as_a_site(served: Served) -> None:
    page = served.get("/guideline/")
    assert page.status == 200
    assert page.media == "text/html"
    links = [link for link in re.findall(r'href="([^"#:]+)', page.text) if not link.startswith("/")]
    assert len(links) > 3
    for link in links[:10]:
        assert served.get(f"/guideline/{link}").status == 200, link
    assert served.get("/guideline/nothing.html").status == 404
    assert served.get("/guideline/../../../etc/passwd").status in (400, 404)


# OpenAPI


@pytest.fixture(scope="module")
def told(served: Served) -> Any:
    return served.get("/openapi.json").json


@pytest.fixture(scope="module")
def told_all(keeping: Served) -> Any:
    return keeping.get("/openapi.json").json


def test_the_description_is_valid_openapi(told: Any, told_all: Any, served: Served) -> None:
    for found in (told, told_all):
        errors = [f"{list(error.absolute_path)}: {error.message}" for error in OpenAPIV31SpecValidator(found).iter_errors()]
        assert errors == []
    assert told["servers"] == [{"url": served.url}]
    assert told["info"]["version"] == kbtool.__version__
    assert re.findall(r'"\{[\w /-]+\}"', json.dumps(told)) == [], "an example was not filled in"


def test_every_address_is_described(told: Any, told_all: Any) -> None:
    from kbtool.serve.app import Server, Settings
    from kbtool.serve.jobs import Service
    from kbtool.serve.keeper import Keeper

    app = Server(Service(kbtool.load()), Keeper({}), Settings("http://localhost")).app()
    routes = {
        (re.sub(r":path\}", "}", route.path).rstrip("/") or "/", method)  # type: ignore[attr-defined]
        for route in app.routes
        for method in route.methods - {"HEAD", "OPTIONS"}  # type: ignore[attr-defined]
    }

    def described(found: Any) -> set[tuple[str, str]]:
        return {(path, method.upper()) for path, item in found["paths"].items() for method in item}

    assert described(told_all) == routes
    assert described(told) == {(path, method) for path, method in routes if not path.startswith("/patients")}
    assert "token" not in told["components"]["securitySchemes"]
    assert "token" not in json.dumps([o.get("security") for item in told["paths"].values() for o in item.values()])
    secured = {path for path, item in told_all["paths"].items() for o in item.values() if {"token": []} in o.get("security", [])}
    assert secured == {"/sparql", "/patients", "/patients/assess", "/patients/explain"}


def resolved(found: Any, node: Any) -> Any:
    while "$ref" in node:
        for part in (node["$ref"].removeprefix("#/").split("/"),):
            node = found
            for name in part:
                node = node[name]
    return node


def requests(found: Any) -> Iterator[tuple[str, str, str | None, Any, Any]]:
    """Method, address, media type, example of a body, and the operation, for every example."""
    for path, item in found["paths"].items():
        for method, operation in item.items():
            asked, address = [], path
            for parameter in (resolved(found, each) for each in operation.get("parameters", [])):
                if "example" in parameter:
                    value = parameter["example"]
                    if parameter["in"] == "path":
                        address = address.replace("{" + parameter["name"] + "}", str(value))
                    else:
                        asked.append((parameter["name"], str(value).lower() if isinstance(value, bool) else value))
            address += "?" + urlencode(asked) if asked else ""
            bodies = operation.get("requestBody", {}).get("content", {None: {"example": None}})
            for media, content in bodies.items():
                yield method.upper(), address, media, content["example"], operation


def test_every_example_works(served: Served, keeping: Served, told: Any, told_all: Any) -> None:
    count = 0
    for server, found in ((served, told), (keeping, told_all)):
        for method, address, media, example, operation in requests(found):
            if media == serving.FORM:
                body: Any = urlencode(example)
            else:
                body = example if isinstance(example, str | None) else json.dumps(example)
            secured = {"token": []} in operation.get("security", [])
            headers = {"content-type": media} if media else {}
            answer = server.request(method, address, body, headers | (BEARER if secured else {}))
            assert answer.status == 200, (method, address, media, answer.text[:500])
            contents = resolved(found, operation["responses"]["200"])["content"]
            assert answer.media in contents, (method, address, answer.media)
            schema = contents[answer.media].get("schema", {})
            if answer.media.endswith("json"):
                whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", "components": found["components"], **schema}
                jsonschema.Draft202012Validator(whole).validate(answer.json)
            for other in contents if method == "POST" or address.startswith(("/sparql", "/.well-known")) else ():
                answer = server.request(method, address, body, headers | {"accept": other} | (BEARER if secured else {}))
                assert answer.status in (200, 406), (address, other, answer.text[:300])
                assert answer.status == 406 or answer.media == other
            if secured:
                assert server.request(method, address, body, headers).status == 401
                assert "401" in operation["responses"]
            count += 1
    assert count > 50


def test_errors_are_as_described(served: Served, told: Any) -> None:
    sent = {
        ("POST", "/sparql"): [
            ("oops", serving.DIRECT, 400),
            ("ASK {}", "text/plain", 415),
            ("CLEAR ALL", "application/sparql-update", 403),
        ],
        ("POST", "/assess"): [("oops", TURTLE, 400), (" ", TURTLE, 422), (" ", "x/y", 415)],
        ("POST", "/validate"): [("oops", TURTLE, 400), (" ", TURTLE, 422)],
        ("POST", "/query"): [("{}", "application/json", 400)],
    }
    schema = {"components": told["components"], "$ref": "#/components/schemas/Problem"}
    for (method, path), cases in sent.items():
        described = told["paths"][path][method.lower()]["responses"]
        for body, kind, status in cases:
            answer = served.request(method, path, body, {"content-type": kind})
            assert answer.status == status
            assert str(status) in described
            assert answer.media in resolved(told, described[str(status)])["content"]
            jsonschema.Draft202012Validator(schema).validate(answer.json)


# Another guideline


def test_another_guideline_is_served_as_well(tmp_path: Path) -> None:
    root = ROOT / "tests" / "second_guideline" / "root.ttl"
    with serving.running(tmp_path, "--ontology", str(root)) as served:
        iri = kbtool.load(root).about["iri"]
        assert served.get("/kb").json["iri"] == iri
        assert served.ask(f"ASK {{ <{iri}> ?p ?o }}")
        found = served.get("/openapi.json").json
        assert not list(OpenAPIV31SpecValidator(found).iter_errors())
        for method, address, media, example, _ in requests(found):
            if address.startswith(("/assess", "/explain", "/sparql", "/cds-services")) and media != serving.FORM:
                body = example if isinstance(example, str | None) else json.dumps(example)
                answer = served.request(method, address, body, {"content-type": media} if media else {})
                assert answer.status == 200, (address, media, answer.text[:300])


def test_a_child_needs_no_file_for_any_patient() -> None:
    script = """
import sys
from kbtool import load
from kbtool.serve.jobs import ANSWERS, Service
from kbtool.serve.keeper import Request

service = Service(load())
service.warm()
opened = []
sys.addaudithook(lambda event, given: opened.append(given[0]) if event == "open" else None)
for text in sys.stdin.read().split("\\0"):
    for accept in ANSWERS:
        asked = {"accept": accept, "as_of": sys.argv[1], "explain": accept == "application/json"}
        assert service.assess(Request(asked, text.encode())).status == 200
    assert service.validate(Request({}, text.encode())).status == 200
print(opened)
"""
    sample = "\0".join(facts(name) for name in ("P01", "P15", "P22"))
    command = [sys.executable, "-c", script, AS_OF]
    done = subprocess.run(command, input=sample, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")

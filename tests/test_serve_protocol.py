"""The SPARQL endpoint by its specifications: SPARQL 1.1 Protocol, Service Description, and what HTTP asks of both.

The W3C's protocol tests are rebuilt here from their descriptions. They name graphs of another server, of which nothing may
be fetched: the dataset is then empty, and an answer over it is right.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pyoxigraph as ox
import pytest
import rdflib
import serving
from serving import DIRECT, FORM, Answer, Served

CI = os.environ.get("CI") == "true"
DATA = [f"http://kasei.us/2009/09/sparql/data/data{n}.rdf" for n in range(4)]
SD = "http://www.w3.org/ns/sparql-service-description#"
JSON, XML = "application/sparql-results+json", "application/sparql-results+xml"
CSV, TSV = "text/csv", "text/tab-separated-values"
BOOLEANS, TABLES = {JSON, XML}, {JSON, XML, CSV, TSV}
GRAPHS = {"text/turtle", "application/n-triples", "application/ld+json", "application/rdf+xml"}

TYPED = "ASK {{ {} }}".format(" . ".join(f"<{graph}> a ?type" for graph in DATA[1:3]))
NAMED = "ASK {{ {} }}".format(" ".join(f"GRAPH ?g{n} {{ <{DATA[n]}> a ?type }}" for n in (1, 2)))
FULL = NAMED.replace("{ ", f"{{ <{DATA[3]}> a ?type . ", 1)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving.running(tmp_path_factory.mktemp("protocol")) as server:
        yield server


def send(
    served: Served, method: str, path: str, asked: Any = (), body: Any = None, kind: str | None = None, **more: str
) -> Answer:
    """A request; `asked` goes into the address, a body that is no text becomes a form."""
    text = body if isinstance(body, str) or body is None else urlencode(body)
    headers = {"content-type": kind} if kind else {}
    return served.request(method, path + ("?" + urlencode(asked) if asked else ""), text, headers | more)


# The W3C tests

POSITIVE: dict[str, tuple[str, Any, Any, str | None, set[str], bool]] = {
    "query_get": ("GET", [("query", "ASK {}"), ("default-graph-uri", DATA[0])], None, None, BOOLEANS, True),
    "query_post_form": ("POST", [("default-graph-uri", DATA[0])], [("query", "ASK {}")], FORM, BOOLEANS, True),
    "query_post_direct": ("POST", [("default-graph-uri", DATA[0])], "ASK {}", DIRECT, BOOLEANS, True),
    "query_dataset_default_graph": (
        "POST",
        [],
        [("query", f"ASK {{ <{DATA[1]}> ?p ?o }}"), ("default-graph-uri", DATA[1])],
        FORM,
        BOOLEANS,
        False,
    ),
    "query_dataset_default_graphs_get": (
        "GET",
        [("query", TYPED), *(("default-graph-uri", graph) for graph in DATA[1:3])],
        None,
        None,
        BOOLEANS,
        False,
    ),
    "query_dataset_default_graphs_post": (
        "POST",
        [("default-graph-uri", graph) for graph in DATA[1:3]],
        TYPED,
        DIRECT,
        BOOLEANS,
        False,
    ),
    "query_dataset_default_graphs_post (form)": (
        "POST",
        [],
        [("query", TYPED), *(("default-graph-uri", graph) for graph in DATA[1:3])],
        FORM,
        BOOLEANS,
        False,
    ),
    "query_dataset_named_graphs_get": (
        "GET",
        [("query", NAMED), *(("named-graph-uri", graph) for graph in DATA[1:3])],
        None,
        None,
        BOOLEANS,
        False,
    ),
    "query_dataset_named_graphs_post": (
        "POST",
        [("named-graph-uri", graph) for graph in DATA[1:3]],
        NAMED,
        DIRECT,
        BOOLEANS,
        False,
    ),
    "query_dataset_named_graphs_post (form)": (
        "POST",
        [],
        [("query", NAMED), *(("named-graph-uri", graph) for graph in DATA[1:3])],
        FORM,
        BOOLEANS,
        False,
    ),
    "query_dataset_full": (
        "POST",
        [("default-graph-uri", DATA[3]), *(("named-graph-uri", graph) for graph in DATA[1:3])],
        FULL,
        DIRECT,
        BOOLEANS,
        False,
    ),
    "query_multiple_dataset": (
        "POST",
        [("default-graph-uri", DATA[3]), *(("named-graph-uri", graph) for graph in DATA[1:3])],
        FULL.replace("ASK", f"ASK FROM <{DATA[0]}>"),
        DIRECT,
        BOOLEANS,
        False,
    ),
}


@pytest.mark.parametrize("path", ["/sparql", "/sparql/"])
@pytest.mark.parametrize("name", POSITIVE)
def test_w3c_positive(served: Served, path: str, name: str) -> None:
    method, asked, body, kind, medias, expected = POSITIVE[name]
    for accept in (None, JSON, XML, "*/*"):
        answer = send(served, method, path, asked, body, kind, **({"accept": accept} if accept else {}))
        assert answer.status == 200, answer.text
        assert answer.media in medias
        parsed = ox.parse_query_results(
            answer.body, {JSON: ox.QueryResultsFormat.JSON, XML: ox.QueryResultsFormat.XML}[answer.media]
        )
        assert bool(parsed) is expected


@pytest.mark.parametrize(
    ("name", "query", "medias"),
    [
        ("query_content_type_select", "SELECT (1 AS ?value) {}", TABLES),
        ("query_content_type_ask", "ASK {}", BOOLEANS),
        ("query_content_type_describe", "DESCRIBE <http://example.org/>", GRAPHS),
        ("query_content_type_construct", "CONSTRUCT { <s> <p> 1 } WHERE {}", GRAPHS),
    ],
)
@pytest.mark.parametrize("kind", [FORM, DIRECT])
def test_w3c_content_type(served: Served, name: str, query: str, medias: set[str], kind: str) -> None:
    body: Any = query if kind == DIRECT else [("query", query), ("default-graph-uri", DATA[0])]
    accepts = [None, "*/*", *sorted(medias), ", ".join(sorted(medias))]
    for accept in accepts:
        answer = send(served, "POST", "/sparql", [], body, kind, **({"accept": accept} if accept else {}))
        assert answer.status == 200, answer.text
        assert answer.media in ({accept} & medias or medias)
        parse(answer)


NEGATIVE: dict[str, tuple[str, Any, Any, str | None]] = {
    "bad_query_method": ("PUT", [("query", "ASK {}"), ("default-graph-uri", DATA[0])], None, None),
    "bad_query_method (DELETE)": ("DELETE", [("query", "ASK {}")], None, None),
    "bad_multiple_queries": ("GET", [("query", "ASK {}"), ("query", "SELECT * {}"), ("default-graph-uri", DATA[0])], None, None),
    "bad_multiple_queries (form)": ("POST", [], [("query", "ASK {}"), ("query", "SELECT * {}")], FORM),
    "bad_multiple_queries (address and body)": ("POST", [("query", "ASK {}")], "ASK {}", DIRECT),
    "bad_query_wrong_media_type": ("POST", [("default-graph-uri", DATA[0])], "ASK {}", "text/plain"),
    "bad_query_missing_form_type": ("POST", [], [("query", "ASK {}"), ("default-graph-uri", DATA[0])], None),
    "bad_query_missing_direct_type": ("POST", [("default-graph-uri", DATA[0])], "ASK {}", None),
    "bad_query_non_utf8": ("POST", [("default-graph-uri", DATA[0])], "ASK {}", f"{DIRECT}; charset=UTF-16"),
    "bad_query_syntax": ("GET", [("query", "ASK {"), ("default-graph-uri", DATA[0])], None, None),
    "bad_query_syntax (an update)": ("GET", [("query", "CLEAR ALL")], None, None),
    "no query (form)": ("POST", [], [("default-graph-uri", DATA[0])], FORM),
    "no query (address)": ("GET", [("default-graph-uri", DATA[0])], None, None),
    "an empty query": ("GET", [("query", "")], None, None),
    "a graph that is no IRI": ("GET", [("query", "ASK {}"), ("default-graph-uri", "not an IRI")], None, None),
    "bad_update_get": ("GET", [("update", "CLEAR ALL"), ("using-graph-uri", DATA[0])], None, None),
    "bad_multiple_updates": (
        "POST",
        [("using-graph-uri", DATA[0])],
        [("update", "CLEAR ALL"), ("update", "CLEAR DEFAULT")],
        FORM,
    ),
    "bad_update_wrong_media_type": ("POST", [("using-graph-uri", DATA[0])], "CLEAR NAMED", "text/plain"),
    "bad_update_missing_form_type": ("POST", [("using-graph-uri", DATA[0])], [("update", "CLEAR NAMED")], None),
    "bad_update_non_utf8": ("POST", [("using-graph-uri", DATA[0])], "CLEAR NAMED", "application/sparql-update; charset=UTF-16"),
    "bad_update_syntax": ("POST", [("using-graph-uri", DATA[0])], [("update", "CLEAR XYZ")], FORM),
    "bad_update_dataset_conflict": (
        "POST",
        [],
        [("using-named-graph-uri", "http://example/people"), ("update", "WITH <urn:x:g> DELETE { ?s ?p 1 } WHERE { ?s ?p 1 }")],
        FORM,
    ),
    "update_post_form": ("POST", [], [("update", "CLEAR ALL")], FORM),
    "update_post_direct": ("POST", [], "CLEAR ALL", "application/sparql-update"),
    "update_base_uri": ("POST", [], [("update", "INSERT DATA { <urn:s> <urn:p> <test> }")], FORM),
    "an update as a query": ("POST", [], [("query", "INSERT DATA { <urn:s> <urn:p> 1 }")], FORM),
    "an update as a direct query": ("POST", [], "DROP ALL", DIRECT),
    "query and update": ("POST", [], [("query", "ASK {}"), ("update", "CLEAR ALL")], FORM),
}


@pytest.mark.parametrize("path", ["/sparql", "/sparql/"])
@pytest.mark.parametrize("name", NEGATIVE)
def test_w3c_negative(served: Served, path: str, name: str) -> None:
    before = served.rows("SELECT (COUNT(*) AS ?n) { ?s ?p ?o }")
    answer = send(served, *NEGATIVE[name][:1], path, *NEGATIVE[name][1:])
    assert 400 <= answer.status < 500, answer.text
    assert answer.detail
    assert answer.media not in TABLES | GRAPHS
    assert served.rows("SELECT (COUNT(*) AS ?n) { ?s ?p ?o }") == before != [{"n": "0"}]


def test_updates_are_refused_as_such(served: Served) -> None:
    for name in ("update_post_form", "update_post_direct", "bad_update_get"):
        method, *rest = NEGATIVE[name]
        answer = send(served, method, "/sparql", *rest)
        assert answer.status == 403
        assert "read-only" in answer.detail


# The service description


def description(served: Served, path: str = "/sparql", **headers: str) -> tuple[Answer, rdflib.Graph]:
    answer = served.get(path, **headers)
    assert answer.status == 200, answer.text
    graph = rdflib.Graph()
    graph.parse(data=answer.body, format=answer.media)
    return answer, graph


@pytest.mark.parametrize("media", [None, *sorted(GRAPHS)])
@pytest.mark.parametrize("path", ["/sparql", "/sparql/"])
def test_description_is_rdf_with_the_very_endpoint(served: Served, path: str, media: str | None) -> None:
    answer, graph = description(served, path, **({"accept": media} if media else {}))
    assert answer.media == (media or "text/turtle")
    (service,) = graph.subjects(rdflib.RDF.type, rdflib.URIRef(SD + "Service"))
    assert [str(each) for each in graph.objects(service, rdflib.URIRef(SD + "endpoint"))] == [served.url + path]


def test_description_conforms_to_its_schema(served: Served) -> None:
    """What the vocabulary's domains, ranges and cardinalities say, and the W3C validator's required and best practice tests."""
    _, graph = description(served)
    sd = rdflib.Namespace(SD)
    rdf_type = rdflib.RDF.type
    typed = {
        "Service": ["endpoint", "feature", "defaultDataset", "supportedLanguage", "resultFormat"],
        "Dataset": ["defaultGraph", "namedGraph"],
        "NamedGraph": ["name", "graph"],
    }
    for kind, properties in typed.items():
        for each in properties:
            subjects = set(graph.subjects(sd[each]))
            assert subjects, each
            assert subjects <= set(graph.subjects(rdf_type, sd[kind])), each
    for each, kind in {
        "defaultDataset": "Dataset",
        "namedGraph": "NamedGraph",
        "graph": "Graph",
        "defaultGraph": "Graph",
    }.items():
        assert set(graph.objects(None, sd[each])) <= set(graph.subjects(rdf_type, sd[kind])), each
    for named in graph.subjects(rdf_type, sd.NamedGraph):
        assert len(list(graph.objects(named, sd.name))) == 1
    assert (None, sd.supportedLanguage, sd.SPARQL11Query) in graph
    assert (None, sd.supportedLanguage, sd.SPARQL11Update) not in graph
    used = {each for each in graph.predicates() if str(each).startswith(SD)} | {
        each for each in graph.objects(None, rdf_type) if str(each).startswith(SD)
    }
    known = {"Service", "Dataset", "NamedGraph", "Graph", "endpoint", "feature", "defaultDataset", "supportedLanguage"}
    known |= {"resultFormat", "defaultGraph", "namedGraph", "name", "graph"}
    assert {str(each).removeprefix(SD) for each in used} <= known


def test_description_tells_the_truth(served: Served) -> None:
    """Each graph that it names is there with as many triples as it says, and the default graph is the union of all."""
    _, graph = description(served)
    sd, void = rdflib.Namespace(SD), rdflib.Namespace("http://rdfs.org/ns/void#")
    named = {
        str(graph.value(each, sd.name)): graph.value(each, sd.graph) for each in graph.subjects(rdflib.RDF.type, sd.NamedGraph)
    }
    found = {row["g"]: int(row["n"]) for row in served.rows("SELECT ?g (COUNT(*) AS ?n) { GRAPH ?g { ?s ?p ?o } } GROUP BY ?g")}
    assert found == {iri: int(str(graph.value(each, void.triples))) for iri, each in named.items()}
    assert len(found) > 3
    (default,) = graph.objects(None, sd.defaultGraph)
    (count,) = served.rows("SELECT (COUNT(*) AS ?n) { ?s ?p ?o }")
    assert int(str(graph.value(default, void.triples))) == int(count["n"])
    assert (None, sd.feature, sd.UnionDefaultGraph) in graph
    assert not served.ask("ASK { ?s ?p ?o FILTER(!ISBLANK(?s) && !ISBLANK(?o)) FILTER NOT EXISTS { GRAPH ?g { ?s ?p ?o } } }")
    assert not served.ask("ASK { GRAPH ?g { ?s ?p ?o } FILTER NOT EXISTS { ?s ?p ?o } }")
    formats = {str(each).rpartition("/")[2] for each in graph.objects(None, sd.resultFormat)}
    assert formats == {f"SPARQL_Results_{each}" for each in ("JSON", "XML", "CSV", "TSV")} | {
        "Turtle",
        "N-Triples",
        "JSON-LD",
        "RDF_XML",
    }


def test_description_is_found_in_the_well_known_place_too(served: Served) -> None:
    _, graph = description(served, "/.well-known/void")
    (endpoint,) = graph.objects(None, rdflib.URIRef(SD + "endpoint"))
    assert str(endpoint) == served.url + "/sparql"


# The dataset


@pytest.fixture(scope="module")
def modules(served: Served) -> list[str]:
    return sorted(
        row["g"] for row in served.rows("SELECT DISTINCT ?g { GRAPH ?g { ?o a <http://www.w3.org/2002/07/owl#Ontology> } }")
    )


COUNT = "SELECT (COUNT(*) AS ?n) {} {{ ?s ?p ?o }}"
COUNT_NAMED = "SELECT ?g (COUNT(*) AS ?n) {} {{ GRAPH ?g {{ ?s ?p ?o }} }} GROUP BY ?g ORDER BY ?g"


def test_protocol_dataset(served: Served, modules: list[str]) -> None:
    one, two = modules[:2]
    size = {row["g"]: int(row["n"]) for row in served.rows(COUNT_NAMED.format(""))}

    def default(**parameters: Any) -> int:
        return int(served.rows(COUNT.format(""), **parameters)[0]["n"])

    def named(**parameters: Any) -> list[str]:
        return [row["g"] for row in served.rows(COUNT_NAMED.format(""), **parameters)]

    assert default(**{"default-graph-uri": one}) == size[one]
    assert default(**{"default-graph-uri": [one, two]}) == size[one] + size[two]
    assert default(**{"named-graph-uri": one}) == 0
    assert named(**{"named-graph-uri": [one, two]}) == [one, two]
    assert named(**{"default-graph-uri": one}) == []
    assert named(**{"default-graph-uri": one, "named-graph-uri": two}) == [two]


def test_protocol_dataset_wins_over_the_query(served: Served, modules: list[str]) -> None:
    one, two = modules[:2]
    size = {row["g"]: row["n"] for row in served.rows(COUNT_NAMED.format(""))}
    asked = COUNT.format(f"FROM <{two}>")
    assert served.rows(asked) == [{"n": size[two]}]
    assert served.rows(asked, **{"default-graph-uri": one}) == [{"n": size[one]}]
    assert served.rows(asked, **{"named-graph-uri": one}) == [{"n": "0"}]
    asked = COUNT_NAMED.format(f"FROM NAMED <{two}>")
    assert served.rows(asked) == [{"g": two, "n": size[two]}]
    assert served.rows(asked, **{"named-graph-uri": one}) == [{"g": one, "n": size[one]}]
    assert served.rows(asked, **{"default-graph-uri": one}) == []


def test_every_module_has_its_graph(served: Served, modules: list[str]) -> None:
    import kbtool

    assert set(modules) == set(kbtool.load().knowledge.modules)


# Requests


@pytest.mark.parametrize("text", ["é", "日本語", "a+b", "100%", "a&b=c", "😀", '\\"', "#"])
def test_every_way_of_asking_keeps_every_character(served: Served, text: str) -> None:
    query = f'SELECT ("{text}" AS ?x) {{}}'
    expected = '"' if text == '\\"' else text
    ways = [
        served.get("/sparql?query=" + quote(query, safe="")),
        served.get("/sparql?" + urlencode({"query": query})),
        served.post("/sparql", urlencode({"query": query}), content_type=FORM),
        served.post("/sparql", urlencode({"query": query}), content_type=f"{FORM}; charset=utf-8"),
        served.post("/sparql", query, content_type=DIRECT),
        served.post("/sparql", query, content_type=f'{DIRECT}; charset="UTF-8"'),
        served.post("/sparql", iter([query.encode()]), content_type=DIRECT),
        served.post("/sparql", query, content_type=DIRECT.upper()),
    ]
    for answer in ways:
        assert answer.status == 200, answer.text
        assert answer.json["results"]["bindings"] == [{"x": {"type": "literal", "value": expected}}]


def test_parameters_in_any_order_and_others_are_ignored(served: Served, modules: list[str]) -> None:
    pairs = [("query", "ASK { ?s ?p ?o }"), ("default-graph-uri", modules[0]), ("format", "x"), ("timeout", "1")]
    for asked in (pairs, pairs[::-1]):
        assert send(served, "GET", "/sparql", asked).json["boolean"] is True
        assert send(served, "POST", "/sparql", [], asked, FORM).json["boolean"] is True


@pytest.mark.parametrize("bad", ["%FF%FE", "ASK%20%7B%7D%C3", "%00", "%ZZ"])
def test_malformed_percent_encoding(served: Served, bad: str) -> None:
    for answer in (served.get(f"/sparql?query={bad}"), served.post("/sparql", f"query={bad}", content_type=FORM)):
        assert answer.status == 400
        assert answer.detail


def test_a_query_that_is_not_utf8(served: Served) -> None:
    answer = served.post("/sparql", 'SELECT ("é" AS ?x) {}'.encode("latin-1"), content_type=DIRECT)
    assert answer.status == 400
    assert "UTF-8" in answer.detail


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("SELECT * { ?s ?p }", "line 1, column 1"),
        ("SELECT *\nWHERE {\n  ?s ?p ?o .\n  ?s oops ?o }", "line 4, column "),
        ("ASK { ?s nope:x ?o }", "line 1, column "),
        ("SELECT ?a ?b { ?s ?p ?o } GROUP BY ?a", "line 1, column "),
        ("", "line 1, column 1"),
    ],
)
def test_a_bad_query_is_told_with_its_place(served: Served, query: str, place: str) -> None:
    for answer in (served.get("/sparql?" + urlencode({"query": query})), served.query(query)):
        assert answer.status == 400
        assert place in answer.detail
        assert "/" not in answer.detail.replace("http://", ""), "a path of this machine"


def test_relative_iris_are_resolved_against_the_endpoint(served: Served) -> None:
    answer = served.query("CONSTRUCT { <s> <p> <#o> } WHERE {}", accept="application/n-triples")
    assert answer.text.strip() == f"<{served.url}/s> <{served.url}/p> <{served.url}/sparql#o> ."


def test_known_prefixes_need_no_declaration_but_a_declared_one_wins(served: Served) -> None:
    assert served.ask("ASK { cg:Patient ?p ?o }")
    assert not served.ask("PREFIX cg: <urn:x:> ASK { cg:Patient ?p ?o }")


# Answers


def parse(answer: Answer) -> Any:
    """What an answer holds, read by others where that is possible; an answer that does not parse fails."""
    if answer.media in GRAPHS:
        graph = rdflib.Graph()
        graph.parse(data=answer.body, format={"application/n-triples": "nt"}.get(answer.media, answer.media))
        return graph
    if answer.media == CSV:
        return list(csv.reader(io.StringIO(answer.text)))
    if answer.media == TSV:
        return [line.split("\t") for line in answer.text.splitlines()]
    kind = {JSON: "json", XML: "xml"}[answer.media]
    return rdflib.query.Result.parse(io.BytesIO(answer.body), format=kind)


NEGOTIATED = [
    ("SELECT", None, JSON),
    ("SELECT", "", JSON),
    ("SELECT", "*/*", JSON),
    ("SELECT", "application/*", JSON),
    ("SELECT", "text/*", CSV),
    ("SELECT", "application/json", JSON),
    ("SELECT", "application/xml", XML),
    ("SELECT", "text/html, application/xhtml+xml, application/xml;q=0.9, */*;q=0.8", XML),
    ("SELECT", f"{XML};q=0.5, {CSV};q=0.7", CSV),
    ("SELECT", f"{JSON};q=0.1, */*;q=0.9", XML),
    ("SELECT", f"{JSON};q=0, */*", XML),
    ("SELECT", f"{TSV};q=1.0,{JSON};q=1.0", JSON),
    ("SELECT", f"text/*;q=0.3, {TSV};q=0.7, */*;q=0.1", TSV),
    ("SELECT", f"{JSON};charset=utf-8", JSON),
    ("SELECT", f"{XML} ; q=0.4 , {JSON} ; q=0.2", XML),
    ("SELECT", "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", JSON),
    ("SELECT", XML.upper(), XML),
    ("SELECT", "text/turtle", None),
    ("SELECT", "text/html", None),
    ("SELECT", f"{JSON};q=0", None),
    ("SELECT", "*/*;q=0", None),
    ("ASK", None, JSON),
    ("ASK", XML, XML),
    ("CONSTRUCT", None, "text/turtle"),
    ("CONSTRUCT", "application/rdf+xml;q=0.9, text/turtle;q=0.8", "application/rdf+xml"),
    ("CONSTRUCT", "application/ld+json", "application/ld+json"),
    ("CONSTRUCT", 'application/ld+json;profile="http://www.w3.org/ns/json-ld#compacted"', "application/ld+json"),
    ("CONSTRUCT", "application/n-triples", "application/n-triples"),
    ("CONSTRUCT", "application/n-quads, application/trig;q=0.9, text/n3;q=0.1, */*;q=0.05", "text/turtle"),
    ("CONSTRUCT", JSON, None),
    ("DESCRIBE", "application/rdf+xml", "application/rdf+xml"),
]
QUERIES = {
    "SELECT": 'SELECT ("a,\\"b" AS ?x) (1 AS ?y) {}',
    "ASK": "ASK {}",
    "CONSTRUCT": 'CONSTRUCT { <urn:x:s> <urn:x:p> "é" } WHERE {}',
    "DESCRIBE": "DESCRIBE <https://w3id.org/kbtool/cg/Patient>",
}


@pytest.mark.parametrize(("form", "accept", "media"), NEGOTIATED)
def test_negotiation(served: Served, form: str, accept: str | None, media: str | None) -> None:
    answer = served.query(QUERIES[form], **({"accept": accept} if accept is not None else {}))
    if media is None:
        assert answer.status == 406
        assert "there is " in answer.detail
        return
    assert answer.status == 200, answer.text
    assert answer.media == media or (media, answer.media) == (XML, "application/xml")
    assert "Accept" in answer.headers["vary"]


def test_several_fields_of_accept_count_as_one(served: Served) -> None:
    fields = f"Host: localhost\r\nConnection: close\r\nAccept: text/html\r\nAccept: {XML}"
    raw = served.raw(f"GET /sparql?query=ASK%7B%7D HTTP/1.1\r\n{fields}\r\n\r\n".encode())
    assert b"200 OK" in raw
    assert XML.encode() in raw


@pytest.mark.parametrize("media", sorted(TABLES))
def test_each_table_says_the_same(served: Served, media: str) -> None:
    query = 'SELECT ?x ?y { VALUES (?x ?y) { (<urn:x:a> "é\\t\\"\\n,") ("b"@en-gb UNDEF) (1.50 true) } }'
    answer = served.query(query, accept=media)
    assert answer.media == media
    table = parse(answer)
    if media == CSV:
        assert answer.text.endswith("\r\n")
        assert table == [["x", "y"], ["urn:x:a", 'é\t"\n,'], ["b", ""], ["1.50", "true"]] or table[3][0] == "1.5"
    elif media == TSV:
        assert table[0] == ["?x", "?y"]
        assert table[1][0] == "<urn:x:a>"
        assert table[2] == ['"b"@en-gb', ""]
    else:
        rows = [(row.x, row.y) for row in table]
        assert rows[0] == (rdflib.URIRef("urn:x:a"), rdflib.Literal('é\t"\n,'))
        assert rows[1] == (rdflib.Literal("b", lang="en-gb"), None)


@pytest.mark.parametrize("media", sorted(GRAPHS))
def test_each_graph_says_the_same(served: Served, media: str) -> None:
    query = 'CONSTRUCT { <urn:x:s> <urn:x:p> "é\\n"@en , 1.5 , [ <urn:x:q> <urn:x:o> ] } WHERE {}'
    graph = parse(served.query(query, accept=media))
    assert len(graph) == 4
    assert (rdflib.URIRef("urn:x:s"), rdflib.URIRef("urn:x:p"), rdflib.Literal("é\n", lang="en")) in graph


def test_a_text_says_its_charset(served: Served) -> None:
    for query, media in ((QUERIES["SELECT"], CSV), (QUERIES["CONSTRUCT"], "text/turtle")):
        assert served.query(query, accept=media).headers["content-type"] == f"{media}; charset=utf-8"


def test_head_is_get_without_a_body(served: Served) -> None:
    for path in ("/sparql", "/sparql?query=ASK%7B%7D", "/sparql?query=oops", "/kb", "/health"):
        get, head = served.get(path), served.request("HEAD", path)
        assert (head.status, head.headers["content-type"]) == (get.status, get.headers["content-type"])
        assert head.headers["content-length"] == str(len(get.body))
        assert head.body == b""


def test_gzip(served: Served) -> None:
    query = "SELECT * { ?s ?p ?o } LIMIT 200"
    plain = served.query(query)
    assert "content-encoding" not in plain.headers
    for encodings in ("gzip", "deflate, gzip;q=0.5", "*", "br, GZIP"):
        packed = served.query(query, accept_encoding=encodings)
        assert packed.headers["content-encoding"] == "gzip"
        assert gzip.decompress(packed.body) == plain.body
        assert packed.headers["content-length"] == str(len(packed.body))
        assert "Accept-Encoding" in packed.headers["vary"]
    for encodings in ("", "identity", "gzip;q=0", "br"):
        assert "content-encoding" not in served.query(query, accept_encoding=encodings).headers
    assert "content-encoding" not in served.query("ASK {}", accept_encoding="gzip").headers


def test_methods(served: Served) -> None:
    answer = served.request("OPTIONS", "/sparql")
    assert answer.status == 204
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD", "POST", "OPTIONS"}
    for method in ("PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"):
        answer = served.request(method, "/sparql?query=ASK%7B%7D")
        assert answer.status == 405
        assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD", "POST", "OPTIONS"}
        assert answer.detail
    answer = served.get("/assess")
    assert answer.status == 405
    assert set(answer.headers["allow"].split(", ")) == {"POST", "OPTIONS"}


def test_pages_of_any_origin_may_query(served: Served) -> None:
    origin = {"origin": "https://elsewhere.example"}
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "content-type, authorization"}
    answer = served.request("OPTIONS", "/sparql", headers=origin | asked)
    assert answer.status in (200, 204)
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "POST" in answer.headers["access-control-allow-methods"]
    allowed = answer.headers["access-control-allow-headers"].lower()
    assert "content-type" in allowed
    assert "authorization" in allowed
    assert "access-control-allow-credentials" not in answer.headers
    for query, status in (("ASK {}", 200), ("oops", 400)):
        answer = served.query(query, **origin)
        assert answer.status == status
        assert answer.headers["access-control-allow-origin"] == "*"


def test_a_connection_serves_many_requests(served: Served) -> None:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    for status, query in ((200, "ASK {}"), (400, "oops"), (200, "SELECT * { ?s ?p ?o } LIMIT 1")):
        connection.request("POST", "/sparql", query, {"content-type": DIRECT})
        answer = connection.getresponse()
        assert answer.status == status
        answer.read()
    connection.close()


def test_examples_in_the_form_of_the_sib(served: Served) -> None:
    answer = served.get("/.well-known/sparql-examples")
    graph = parse(answer)
    sh, schema = rdflib.Namespace("http://www.w3.org/ns/shacl#"), rdflib.Namespace("https://schema.org/")
    examples = set(graph.subjects(rdflib.RDF.type, sh.SPARQLExecutable))
    files = sorted((Path(__file__).parent.parent / "queries" / "ask").glob("*.rq"))
    assert len(examples) == len(files) > 20
    for each in examples:
        assert str(graph.value(each, schema.target)) == served.url + "/sparql"
        assert graph.value(each, rdflib.RDFS.comment)
        query = graph.value(each, sh.select) or graph.value(each, sh.construct)
        prefixes = {
            str(graph.value(one, sh.prefix)): str(graph.value(one, sh.namespace))
            for one in graph.objects(graph.value(each, sh.prefixes), sh.declare)
        }
        for prefix in prefixes:
            assert f"{prefix}:" in str(query)
        answer = served.query(str(query))
        assert answer.status == 200, (each, answer.text)


# Clients that are not ours


def test_sparqlwrapper(served: Served) -> None:
    from SPARQLWrapper import GET, JSON, POST, POSTDIRECTLY, TURTLE, URLENCODED, SPARQLWrapper

    for method, how in ((GET, URLENCODED), (POST, URLENCODED), (POST, POSTDIRECTLY)):
        client = SPARQLWrapper(served.url + "/sparql")
        client.setMethod(method)
        client.setRequestMethod(how)
        client.setReturnFormat(JSON)
        client.setQuery("SELECT * { ?s ?p ?o } LIMIT 3")
        assert len(client.queryAndConvert()["results"]["bindings"]) == 3
        client.setQuery("ASK {}")
        assert client.queryAndConvert()["boolean"] is True
        client.setReturnFormat(TURTLE)
        client.setQuery("CONSTRUCT { ?s ?p ?o } WHERE { ?s ?p ?o } LIMIT 3")
        graph = rdflib.Graph()
        graph.parse(data=client.queryAndConvert(), format="turtle")
        assert len(graph) == 3


@pytest.mark.parametrize("method", ["GET", "POST", "POST_FORM"])
def test_rdflib_store(served: Served, method: str, modules: list[str]) -> None:
    from rdflib.plugins.stores.sparqlstore import SPARQLStore

    store = SPARQLStore(served.url + "/sparql", method=method)
    graph = rdflib.Graph(store)
    assert len(list(graph.query("SELECT * { ?s ?p ?o } LIMIT 3"))) == 3
    assert bool(graph.query("ASK { ?s ?p ?o }"))
    assert len(graph.query("CONSTRUCT { ?s ?p ?o } WHERE { ?s ?p ?o } LIMIT 3").graph) == 3
    assert rdflib.OWL.Class in set(graph.objects(rdflib.URIRef("https://w3id.org/kbtool/cg/Patient"), rdflib.RDF.type))
    size = int(served.rows(COUNT.format(f"FROM <{modules[0]}>"))[0]["n"])
    assert len(rdflib.Graph(store, rdflib.URIRef(modules[0]))) == size


@pytest.mark.skipif(not shutil.which("curl") and not CI, reason="curl is not installed")
def test_curl(served: Served) -> None:
    def curl(*options: str) -> str:
        command = ["curl", "-sS", "--fail-with-body", "--compressed", "--max-time", "30", *options]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    url = served.url + "/sparql"
    assert json.loads(curl("--data-urlencode", "query=ASK { ?s ?p ?o }", url))["boolean"] is True
    assert json.loads(curl("-G", "--data-urlencode", "query=ASK { ?s ?p ?o }", url))["boolean"] is True
    assert curl("-H", "Accept: text/csv", "-H", f"Content-Type: {DIRECT}", "-d", "SELECT (1 AS ?x) {}", url).split() == ["x", "1"]
    big = curl("-H", f"Content-Type: {DIRECT}", "-H", "Expect: 100-continue", "-d", "SELECT * { ?s ?p ?o } LIMIT 5000", url)
    assert len(json.loads(big)["results"]["bindings"]) == 5000
    assert re.search(r"sd:Service|#Service", curl(url))


@pytest.mark.deep
@pytest.mark.skipif(not shutil.which("npm") and not CI, reason="npm is not installed")
def test_comunica(served: Served, tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text('{"private": true, "type": "module"}')
    install = ["npm", "install", "--no-audit", "--no-fund", "--silent", "@comunica/query-sparql@4"]  # 5 needs Node.js 22
    subprocess.run(install, cwd=tmp_path, check=True, timeout=300)
    (tmp_path / "ask.js").write_text(
        """
        import { QueryEngine } from "@comunica/query-sparql";
        const engine = new QueryEngine(), found = {};
        for (const source of [{ type: "sparql", value: process.argv[2] }, process.argv[2]]) {
          const context = { sources: [source] };
          const rows = async (query) => (await (await engine.queryBindings(query, context)).toArray()).length;
          const name = source.type ?? "guessed";
          found[name] = [
            await rows("SELECT * { ?s ?p ?o } LIMIT 3"),
            await rows("SELECT * { ?s a <http://www.w3.org/2002/07/owl#Ontology> }"),
            await rows("SELECT * { GRAPH ?g { ?s a <http://www.w3.org/2002/07/owl#Ontology> } }"),
            await engine.queryBoolean("ASK { ?s ?p ?o }", context),
            (await (await engine.queryQuads("CONSTRUCT WHERE { ?s ?p ?o } LIMIT 3", context)).toArray()).length,
          ];
        }
        console.log(JSON.stringify(found));
        """
    )
    command = ["node", "ask.js", served.url + "/sparql"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    ontologies = len(served.rows("SELECT * { ?s a <http://www.w3.org/2002/07/owl#Ontology> }"))
    expected = [3, ontologies, ontologies, True, 3]
    assert json.loads(done.stdout) == {"sparql": expected, "guessed": expected}

"""The checks of queries: silent on all that come with kbtool, and each fires on a bad example in tests/bad_checks/queries.

A bad example says by lines `# expect: check line part-of-message` what must be found in it; nothing else may be found.
"""

from __future__ import annotations

import re
import socket
import time
from functools import cache
from pathlib import Path

import pyoxigraph as ox
import pytest

import kbtool
from kbtool.checks.model import Context, Finding
from kbtool.checks.queries import Query, Vocabulary, check_files, check_query, in_shapes, queries
from kbtool.knowledge import HOME
from kbtool.namespaces import CG, RDF, local_name

BAD = Path(__file__).parent / "bad_checks" / "queries"
FILES = sorted(file for file in BAD.rglob("*.*") if file.suffix in (".rq", ".ru", ".ttl"))
EXPECTED = re.compile(r"^# expect: (\w+) (\d+) (.+)$", re.MULTILINE)
CHECKS = {
    "QuerySyntax",
    "QueryHeader",
    "QueryUndeclaredTerm",
    "QueryReachesOut",
    "QueryUnsettled",
    "QueryBlankNode",
    "QueryRemoves",
    "QueryDuration",
    "QueryPattern",
    "QueryZeroPath",
    "QueryFunction",
    "QueryFloat",
    "QueryPrefixTwice",
}


@cache
def context() -> Context:
    return Context(kbtool.load().knowledge)


@cache
def vocabulary() -> Vocabulary:
    return Vocabulary.of(context().knowledge)


def found_in(file: Path) -> list[Finding]:
    return list(check_files([file], vocabulary()))


def test_the_queries_that_come_with_kbtool_are_sound_and_soon_checked() -> None:
    start = time.process_time()
    assert list(queries(context())) == []
    assert time.process_time() - start < 15  # 2.5 s on an idle machine


def test_the_queries_suit_another_guideline() -> None:
    other = kbtool.load(Path(__file__).parent / "second_guideline" / "root.ttl").knowledge
    assert list(queries(Context(other))) == []


def test_all_queries_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Query] = []
    monkeypatch.setattr("kbtool.checks.queries.check_query", lambda query, _: seen.append(query) or iter(()))
    list(queries(context()))
    files = {file for file in (HOME / "queries").rglob("*.*") if file.suffix in (".rq", ".ru")}
    assert files <= {query.file for query in seen}
    selects = sum(file.read_text(encoding="utf-8").count("sh:select ") for file in (HOME / "shapes").glob("*.ttl"))
    assert sum(query.file.suffix == ".ttl" for query in seen) == selects > 40


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_a_bad_query_is_found(file: Path) -> None:
    found = sorted(found_in(file), key=lambda f: (local_name(f.check), f.line or 0, f.message))
    expected = sorted(
        ((check, int(line), part) for check, line, part in EXPECTED.findall(file.read_text(encoding="utf-8"))),
    )
    assert [(local_name(f.check), f.line, f.file) for f in found] == [(check, line, file) for check, line, _ in expected]
    for finding, (_, _, part) in zip(found, expected, strict=True):
        assert part in finding.message
        assert re.fullmatch(r"[A-Z].*\.", finding.message, re.DOTALL)


def test_each_check_has_a_bad_query() -> None:
    assert {check for file in FILES for check, _, _ in EXPECTED.findall(file.read_text(encoding="utf-8"))} == CHECKS
    assert sum(not EXPECTED.search(file.read_text(encoding="utf-8")) for file in FILES) == 3, "good examples"


def test_each_check_is_described() -> None:
    described = ox.Store()
    described.load((HOME / "shapes" / "checks.ttl").read_bytes(), ox.RdfFormat.TURTLE)
    known = {q.subject for q in described.quads_for_pattern(None, RDF["type"], CG["Check"], None)}
    assert {CG[name] for name in CHECKS} <= known


def test_findings_in_shapes_name_the_shape() -> None:
    found = found_in(BAD / "shapes" / "shapes.ttl")
    assert {f.subject for f in found} == {CG[name].value for name in ("NowShape", "SyntaxShape", "TermShape")}


def test_selects_of_shapes_are_found_at_their_lines() -> None:
    for file in (HOME / "shapes").glob("*.ttl"):
        lines = file.read_text(encoding="utf-8").splitlines()
        for query in in_shapes(file):
            assert "sh:select" in lines[query.first_line - 1]


def test_no_query_that_reaches_out_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oxigraph parses by running, and would call the endpoint."""

    def refuse(*_: object) -> None:
        raise AssertionError("run")

    monkeypatch.setattr(ox.Store, "query", refuse)
    monkeypatch.setattr(ox.Store, "update", refuse)
    files = [file for file in FILES if "QueryReachesOut" in file.read_text(encoding="utf-8")]
    assert len(files) >= 7
    for file in files:
        assert found_in(file)


@pytest.mark.parametrize("silent", ["", "SILENT "])
def test_an_endpoint_is_never_called(silent: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        text = f"SELECT * {{ SERVICE {silent}<http://127.0.0.1:{server.getsockname()[1]}/> {{ ?s ?p ?o }} }}"
        assert any(f.check.endswith("QueryReachesOut") for f in check_query(Query(text, Path("x.rq")), vocabulary()))
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize("text", ["", "SELECT", "\x00", 'SELECT * { ?s ?p "', "{" * 50, "INSERT", "# only a comment"])
def test_what_is_no_query_is_an_error_and_no_crash(text: str) -> None:
    for is_update in (False, True):
        found = list(check_query(Query(text, Path("x.rq"), is_update=is_update), vocabulary()))
        assert {local_name(f.check) for f in found} <= {"QuerySyntax"}
        assert is_update or found


def test_terms_of_another_guideline_are_known_there() -> None:
    other = Vocabulary.of(kbtool.load(Path(__file__).parent / "second_guideline" / "root.ttl").knowledge)
    term = next(t for t in sorted(other.terms) if not t.startswith(CG.iri) and t.startswith(other.namespaces))
    text = f"ASK {{ ?x a <{term}> }}"
    assert not list(check_query(Query(text, Path("x.rq")), other))
    assert [local_name(f.check) for f in check_query(Query(text, Path("x.rq")), vocabulary())] == ["QueryUndeclaredTerm"]

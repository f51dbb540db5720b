"""`kbtool fmt`: one form for a file, whatever an editor made of it, in which a small change is a small diff."""

from __future__ import annotations

import os
import random
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pyoxigraph as ox
import pytest
import rdflib
from hypothesis import given, settings
from hypothesis import strategies as st

from kbtool.namespaces import OWL, RDF, text
from kbtool.turtle import Formatted, TurtleError, format_file, format_files

PROJECT = Path(__file__).parent.parent
TREE = sorted([*PROJECT.glob("ontology/*.ttl"), *PROJECT.glob("shapes/*.ttl")])
HOOKS = PROJECT / ".pre-commit-hooks.yaml"
TURTLE = ox.RdfFormat.TURTLE
EX = "https://example.org/"
PROLOGUE = (
    f"@prefix ex: <{EX}> . @prefix owl: <http://www.w3.org/2002/07/owl#> . @prefix xsd: <http://www.w3.org/2001/XMLSchema#> . "
    "@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> . @prefix rdf: <http://www.w3.org/1999/02/22-rdf-syntax-ns#> . "
)


def name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def triples(data: bytes) -> list[ox.Quad]:
    return list(ox.parse(data, TURTLE, rename_blank_nodes=True))


def canonical(quads: list[ox.Quad]) -> set[ox.Quad]:
    dataset = ox.Dataset(quads)
    dataset.canonicalize(ox.CanonicalizationAlgorithm.RDFC_1_0)
    return set(dataset)


def shuffled(quads: list[ox.Quad], seed: int) -> bytes:
    """The triples as N-Triples, in another order and with other blank nodes."""
    dice = random.Random(seed)  # noqa: S311
    labels: dict[ox.BlankNode, ox.BlankNode] = {}

    def other(term: ox.NamedNode | ox.BlankNode | ox.Literal | ox.Triple) -> object:
        return labels.setdefault(term, ox.BlankNode(f"x{dice.getrandbits(60)}")) if isinstance(term, ox.BlankNode) else term

    renamed = [ox.Triple(other(q.subject), q.predicate, other(q.object)) for q in quads]
    dice.shuffle(renamed)
    return ox.serialize(renamed, format=ox.RdfFormat.N_TRIPLES) or b""


def formatted(source: str | bytes, folder: Path, prefixes: dict[str, str] | None = None) -> Formatted:
    file = folder / "file.ttl"
    file.write_bytes(source.encode() if isinstance(source, str) else source)
    return format_file(file, prefixes)


def written(source: str, folder: Path) -> str:
    """What is written for some triples, without prefixes."""
    lines = formatted(PROLOGUE + source, folder).after.decode().splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("@prefix")).strip("\n")


def lines_of(data: bytes) -> Counter[str]:
    return Counter(data.decode().splitlines())


# --- The files of the project -------------------------------------------------------------------------


@pytest.mark.parametrize("path", TREE, ids=name)
def test_the_files_of_the_project_are_formatted(path: Path) -> None:
    assert format_file(path).diff() == "", f"run: kbtool fmt {name(path)}"


def test_without_a_path_the_files_of_the_project_are_meant() -> None:
    assert format_files(check=True) == []


@pytest.mark.parametrize("path", TREE, ids=name)
def test_formatting_loses_nothing_but_the_order_of_owl_sets(path: Path, tmp_path: Path) -> None:
    before, after = path.read_bytes(), format_file(path).after
    sets = {OWL[p] for p in ("intersectionOf", "unionOf", "oneOf", "withRestrictions", "members", "distinctMembers")}
    if not any(q.predicate in sets for q in triples(before)):
        assert canonical(triples(before)) == canonical(triples(after))
    assert sorted(str(q.object) for q in triples(before) if not isinstance(q.object, ox.BlankNode)) == sorted(
        str(q.object) for q in triples(after) if not isinstance(q.object, ox.BlankNode)
    )


@pytest.mark.parametrize("path", TREE, ids=name)
@pytest.mark.parametrize("seed", [1, 2])
def test_order_blank_nodes_and_prefixes_of_the_input_do_not_matter(path: Path, seed: int, tmp_path: Path) -> None:
    expected = format_file(path).after
    assert formatted(expected, tmp_path).after == expected
    assert formatted(shuffled(triples(path.read_bytes()), seed), tmp_path).after == expected


@pytest.mark.parametrize("path", TREE, ids=name)
def test_what_editors_write_comes_back(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = format_file(path).after
    monkeypatch.setattr(rdflib, "NORMALIZE_LITERALS", False)
    as_triples = [q.triple for q in triples(expected)]
    names = {
        "one": "http://www.w3.org/2002/07/owl#",
        "cg": "https://w3id.org/kbtool/dialysis/",
        "": "https://w3id.org/kbtool/cg/",
    }
    renamed = ox.serialize(as_triples, format=TURTLE, prefixes=names, base_iri="https://w3id.org/kbtool/") or b""
    assert formatted(b"# a banner\n" + renamed, tmp_path).after == expected
    xml = ox.serialize(as_triples, format=ox.RdfFormat.RDF_XML) or b""
    back = [q.triple for q in ox.parse(xml, ox.RdfFormat.RDF_XML)]
    assert formatted(ox.serialize(back, format=TURTLE) or b"", tmp_path).after == expected
    graph = rdflib.Graph(bind_namespaces="none").parse(data=expected, format="turtle")
    for serializer in ("turtle", "longturtle"):
        assert formatted(graph.serialize(format=serializer), tmp_path).after == expected


def sample(quads: list[ox.Quad]) -> list[ox.Quad]:
    return quads[:: max(1, len(quads) // 5)]


def with_other_value(quad: ox.Quad) -> ox.Quad:
    """A triple with another number or another text."""
    old = quad.object
    assert isinstance(old, ox.Literal)
    value = old.value + ("1" if re.fullmatch(r"-?[0-9.]+", old.value) else " too")
    new = ox.Literal(value, language=old.language) if old.language else ox.Literal(value, datatype=old.datatype)
    return ox.Quad(quad.subject, quad.predicate, new)


@pytest.mark.parametrize("path", TREE, ids=name)
def test_a_limit_that_changes_is_one_line_also_inside_a_definition(path: Path, tmp_path: Path) -> None:
    before = format_file(path).after
    quads = triples(before)
    for quad in sample([q for q in quads if q.predicate.value.endswith(("Inclusive", "Exclusive"))]):
        other = [with_other_value(q) if q == quad else q for q in quads]
        after = formatted(shuffled(other, 1), tmp_path).after
        pairs = zip(before.splitlines(), after.splitlines(), strict=True)
        assert sum(old != new for old, new in pairs) == 1, quad


@pytest.mark.parametrize("path", TREE, ids=name)
def test_a_triple_that_changes_or_goes_is_one_line(path: Path, tmp_path: Path) -> None:
    before = format_file(path).after
    quads = triples(before)
    plain = [q for q in quads if isinstance(q.subject, ox.NamedNode) and "\n" not in text(q.object)]
    literals = [q for q in plain if isinstance(q.object, ox.Literal) and "vann" not in q.predicate.value]
    texts = [q for q in literals if text(q.object) not in ("true", "false")]  # of which no other value is written as short
    for quad in sample(texts):
        others = [q for q in quads if q != quad]
        changed = lines_of(formatted(shuffled([*others, with_other_value(quad)], 1), tmp_path).after)
        less = lines_of(formatted(shuffled(others, 1), tmp_path).after)
        lines = lines_of(before)
        assert (changed - lines).total() == (lines - changed).total() == 1, quad
        assert (less - lines).total() == 0, quad
        assert (lines - less).total() == 1, quad


# --- The form -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("ex:a a owl:Class .", "# --- owl:Class ---\n\nex:a a owl:Class ."),
        ("ex:a ex:p 1 .", "# --- other ---\n\nex:a\n  ex:p 1 ;\n."),
        ("ex:a ex:p 0.70 , 06 , true , 1e3 .", "0.70 06 1e3 true"),
        (
            'ex:a ex:p "1"^^xsd:boolean , "x"^^xsd:integer , "1."^^xsd:decimal .',
            '"1"^^xsd:boolean "1."^^xsd:decimal "x"^^xsd:integer',
        ),
        ('ex:a ex:p "b"@en , "a"^^xsd:string , "2026-01-01"^^xsd:date .', '"2026-01-01"^^xsd:date "a" "b"@en'),
        ("ex:a ex:p ex:Serum-mg-dL , ex:x.y , ex:7 .", "ex:7 ex:Serum-mg-dL ex:x.y"),
        (
            "ex:a ex:p ex:x\\/y , ex: , <urn:b> , ex:%41 .",
            "<https://example.org/> <https://example.org/%41> <https://example.org/x/y> <urn:b>",
        ),
        ("ex:a ex:p ex:T10 , ex:T1 , ex:T2 .", "ex:T1 ex:T10 ex:T2"),
        ("ex:a ex:p [] , ( ) .", "rdf:nil []"),
        ("ex:a ex:p ( 1 ) , [ ex:q 1 ; a ex:C ] .", "( 1 ) [ a ex:C ; ex:q 1 ]"),
        ("ex:a ex:p [ a owl:NamedIndividual ; a ex:B ] .", "[ a ex:B ; a owl:NamedIndividual ]"),
        ('ex:a ex:p [ ex:q "said"@en ] .', '# --- other ---\n\nex:a\n  ex:p [\n    ex:q "said"@en ;\n  ] ;\n.'),
    ],
)
def test_the_form_of_terms(source: str, expected: str, tmp_path: Path) -> None:
    got = written(source, tmp_path)
    values = re.findall(r"^  ex:p (.*) ;$", got, re.MULTILINE)
    assert expected == (got if expected.startswith("#") else " ".join(values))


def test_a_file_reads_from_the_ontology_down(tmp_path: Path) -> None:
    source = """
      ex:zebra a ex:Animal , owl:NamedIndividual ; ex:eats ex:grass ; rdfs:label "zebra"@en .
      [] a owl:AllDisjointClasses ; owl:members ( ex:Plant ex:Animal ) .
      ex:Animal a owl:Class ; rdfs:subClassOf [ a owl:Restriction ; owl:someValuesFrom ex:Plant ; owl:onProperty ex:eats ] .
      ex:Plant a owl:Class ; owl:equivalentClass [ a owl:Class ;
        owl:unionOf ( [ a owl:Class ; owl:complementOf ex:Animal ] ex:Herb ) ] .
      ex:eats a owl:FunctionalProperty , owl:ObjectProperty ; rdfs:comment "x" ; rdfs:label "eats"@en .
      <https://example.org/zoo> a owl:Ontology ; owl:imports ex:other ; rdfs:comment "first\\nsecond" .
    """
    assert (
        written(source, tmp_path)
        == """\
<https://example.org/zoo> a owl:Ontology ;
  rdfs:comment \"""first
second\""" ;
  owl:imports <https://example.org/other> ;
.

# --- owl:ObjectProperty ---

ex:eats a owl:ObjectProperty ;
  a owl:FunctionalProperty ;
  rdfs:label "eats"@en ;
  rdfs:comment "x" ;
.

# --- owl:Class ---

ex:Animal a owl:Class ;
  rdfs:subClassOf [ a owl:Restriction ; owl:onProperty ex:eats ; owl:someValuesFrom ex:Plant ] ;
.

ex:Plant a owl:Class ;
  owl:equivalentClass [
    a owl:Class ;
    owl:unionOf (
      ex:Herb
      [ a owl:Class ; owl:complementOf ex:Animal ]
    ) ;
  ] ;
.

# --- owl:AllDisjointClasses ---

[] a owl:AllDisjointClasses ;
  owl:members (
    ex:Animal
    ex:Plant
  ) ;
.

# --- ex:Animal ---

ex:zebra a ex:Animal ;
  a owl:NamedIndividual ;
  rdfs:label "zebra"@en ;
  ex:eats ex:grass ;
."""
    )


def test_only_prefixes_in_use_are_kept_and_the_modules_choose_them(tmp_path: Path) -> None:
    (tmp_path / "catalog-v001.xml").write_text(
        '<catalog xmlns="urn:oasis:names:tc:entity:xmlns:xml:catalog"><uri name="https://example.org/zoo" uri="zoo.ttl"/>'
        "</catalog>"
    )
    (tmp_path / "zoo.ttl").write_text(
        "@prefix vann: <http://purl.org/vocab/vann/> . <https://example.org/zoo> a <http://www.w3.org/2002/07/owl#Ontology> ; "
        'vann:preferredNamespacePrefix "zoo" ; vann:preferredNamespaceUri "https://example.org/zoo/" .'
    )
    source = (
        "@prefix : <https://example.org/zoo/> . @prefix o: <http://www.w3.org/2002/07/owl#> . @prefix un: <urn:used:> . "
        "@prefix unused: <urn:unused:> . @base <https://example.org/zoo/> . :Lion a o:Class ; un:by <Keeper> ."
    )
    assert formatted(source, tmp_path).after.decode() == (
        "@prefix owl: <http://www.w3.org/2002/07/owl#> .\n@prefix un: <urn:used:> .\n"
        "@prefix zoo: <https://example.org/zoo/> .\n\n# --- owl:Class ---\n\nzoo:Lion a owl:Class ;\n  un:by zoo:Keeper ;\n.\n"
    )


def test_order_says_something_in_a_list_that_is_no_set_of_owl(tmp_path: Path) -> None:
    assert re.findall(r"^    (.*)$", written("ex:a ex:path ( 3 1 2 1 ) .", tmp_path), re.MULTILINE) == ["3", "1", "2", "1"]
    assert re.findall(r"^    (.*)$", written("ex:a owl:unionOf ( 3 1 2 1 ) .", tmp_path), re.MULTILINE) == ["1", "2", "3"]


@pytest.mark.parametrize(
    "source",
    [
        "_:x ex:p _:y . _:y ex:p _:x .",
        "_:x ex:p _:x .",
        "ex:a ex:p _:x . ex:b ex:p _:x . _:x ex:q 1 .",
        "ex:a owl:unionOf _:l . ex:b owl:unionOf _:l . _:l rdf:first 1 ; rdf:rest () .",
        "_:l rdf:first 1 ; rdf:rest _:l . ex:a ex:p [ rdf:first 1 ] .",
        "ex:a owl:unionOf ( 1 2 ) , ( 2 3 ) ; ex:p [ ex:q [] , [] ] .",
        "ex:a ex:p [ a rdf:List ; rdf:first 2 ; rdf:rest [ a rdf:List ; rdf:first 1 ; rdf:rest rdf:nil ] ] .",
        "_:a ex:p _:b . _:b ex:p _:c . _:c ex:p _:a , [ ex:q [ ex:q _:d ] ] . _:d ex:r _:d .",
    ],
)
def test_shared_and_circular_blank_nodes_get_stable_names(source: str, tmp_path: Path) -> None:
    first = formatted(PROLOGUE + source, tmp_path).after
    for seed in range(5):
        assert formatted(PROLOGUE.encode() + shuffled(triples((PROLOGUE + source).encode()), seed), tmp_path).after == first
    assert formatted(first, tmp_path).after == first
    plain = [q for q in triples((PROLOGUE + source).encode()) if q.object != RDF["List"]]
    assert canonical(triples(first)) == canonical(plain)


TERMS = st.sampled_from([ox.NamedNode(EX + letter) for letter in "abc"])
NODES = st.one_of(TERMS, st.sampled_from([ox.BlankNode(f"n{number}") for number in range(4)]))
STRINGS = st.one_of(
    st.text(alphabet=st.sampled_from("ab\"\\\n\t\r'\u0007\u0085é😀<>#@"), max_size=8),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
)
LITERALS = st.one_of(
    st.builds(ox.Literal, STRINGS),
    st.builds(lambda value: ox.Literal(value, language="en"), STRINGS),
    st.builds(
        lambda value, kind: ox.Literal(value, datatype=ox.NamedNode(f"http://www.w3.org/2001/XMLSchema#{kind}")),
        st.text("0123456789.eE+-", max_size=5),
        st.sampled_from(["integer", "decimal", "double", "boolean"]),
    ),
)
PREDICATES = st.sampled_from(
    [ox.NamedNode(EX + "p"), ox.NamedNode(EX + "q"), RDF["type"], RDF["first"], RDF["rest"], OWL["unionOf"]]
)
GRAPHS = st.lists(st.builds(ox.Quad, NODES, PREDICATES, st.one_of(NODES, LITERALS, st.just(RDF["nil"]))), max_size=10)


@settings(max_examples=200, deadline=None)
@given(graph=GRAPHS, seed=st.integers(0, 99))
def test_any_graph_keeps_its_triples_and_has_one_form(
    graph: list[ox.Quad], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    first = formatted(shuffled(graph, seed), folder, {}).after
    assert formatted(shuffled(graph, seed + 1), folder, {}).after == first
    assert formatted(first, folder, {}).after == first
    sets = [q for q in graph if q.predicate == OWL["unionOf"]]
    if not sets:
        assert canonical(triples(first)) == canonical(list(graph))


# --- Files --------------------------------------------------------------------------------------------


def test_check_writes_nothing_and_formatting_keeps_the_mode(tmp_path: Path) -> None:
    file = tmp_path / "some" / "file.ttl"
    file.parent.mkdir()
    source = PROLOGUE + "ex:b ex:p 1 . ex:a ex:p 1 ."
    file.write_text(source)
    file.chmod(0o640)
    link = tmp_path / "link.ttl"
    link.symlink_to(file)
    (changed,) = format_files([file], check=True)
    assert file.read_text() == source
    assert changed.diff().startswith(f"--- {file}\n+++ {file} (formatted)\n@@")
    assert [one.path for one in format_files([link])] == [link]
    assert link.is_symlink()
    assert file.read_bytes() == changed.after
    assert file.stat().st_mode & 0o777 == 0o640
    assert format_files([tmp_path]) == []
    assert sorted(path.name for path in file.parent.iterdir()) == ["file.ttl"]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (b"<a:b> <a:c> 1 .\n<a:b> <a:c> ~ .\n", ":2: not valid Turtle: "),
        (b'<a:b> <a:c> "half', ":1: not valid Turtle: "),
        (b'<a:b> <a:c> "\xff" .', ":1: not valid Turtle: "),
        (b"<a:b> <a:c> <<( <a:b> <a:c> 1 )>> .", "triples about triples"),
        (None, ": cannot be read: "),
    ],
)
def test_a_broken_file_is_left_alone_and_so_are_the_others(broken: bytes | None, message: str, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.ttl", tmp_path / "bad.ttl"
    good.write_text("<a:b>   <a:c>   1 .")
    if broken is not None:
        bad.write_bytes(broken)
    with pytest.raises(TurtleError, match=re.escape(message)) as caught:
        format_files([good, bad])
    assert str(bad) in str(caught.value)
    assert good.read_text() == "<a:b>   <a:c>   1 ."
    assert broken is None or bad.read_bytes() == broken


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a folder that cannot be written to")
def test_a_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    file = tmp_path / "file.ttl"
    file.write_text("<a:b>   <a:c>   1 .")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(TurtleError, match="cannot be written"):
            format_files([file])
    finally:
        tmp_path.chmod(0o700)


def test_a_comment_that_is_lost_is_reported_but_no_heading(tmp_path: Path) -> None:
    file = tmp_path / "file.ttl"
    banner = "###  Generated by the OWL API\n#################\n#    Classes\n# --- ex:Gone ---\n"
    file.write_text(PROLOGUE + banner + '# why\nex:a ex:p "# no comment" , <urn:x#y> ; # and this\n ex:q """\n# nor this""" .')
    told: list[str] = []
    format_files([file], report=told.append)
    assert told == [f"{file}: formatting drops 2 comments, the first '# why'; keep what matters in skos:editorialNote"]
    assert "# why" not in file.read_text()
    file.write_text(banner + file.read_text() + "\n")
    told.clear()
    assert format_files([file], report=told.append)
    assert told == []


def test_line_ends_of_another_system_are_no_part_of_a_string(tmp_path: Path) -> None:
    source = PROLOGUE + 'ex:a ex:query """SELECT\n  *""" .\n'
    expected = formatted(source, tmp_path).after
    assert b'"""SELECT\n  *"""' in expected
    assert formatted(b"\xef\xbb\xbf" + source.replace("\n", "\r\n").encode(), tmp_path).after == expected


# --- The hooks ----------------------------------------------------------------------------------------


def test_the_hooks_for_pre_commit_are_valid_and_name_commands_that_exist() -> None:
    if find_spec("pre_commit") is None:
        assert os.environ.get("CI") != "true", "pre-commit is not installed"
        pytest.skip("pre-commit is not installed")
    import yaml

    done = subprocess.run([sys.executable, "-m", "pre_commit", "validate-manifest", HOOKS], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    hooks = yaml.safe_load(HOOKS.read_text(encoding="utf-8"))
    assert {hook["id"] for hook in hooks} == {"kbtool-fmt", "kbtool-check"}
    for hook in hooks:
        program, *arguments = shlex.split(hook["entry"])
        assert program == "kbtool"
        shown = subprocess.run([sys.executable, "-m", program, *arguments, "--help"], capture_output=True, text=True)
        assert shown.returncode == 0, shown.stderr
    wanted = re.compile(next(hook["files"] for hook in hooks if hook["id"] == "kbtool-fmt"))
    assert all(wanted.search(str(path)) for path in TREE)


def test_a_copy_of_the_project_formats_itself(tmp_path: Path) -> None:
    """Prefixes are found by the catalog beside a file, also where nothing but the files themselves is at hand."""
    for path in TREE:
        copy = tmp_path / path.parent.name / path.name
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(shuffled(triples(path.read_bytes()), 3))
    shutil.copy(PROJECT / "ontology" / "catalog-v001.xml", tmp_path / "ontology")
    format_files([tmp_path])
    assert {p.name: p.read_bytes() for p in tmp_path.glob("ontology/*.ttl")} == {
        p.name: format_file(p).after for p in TREE if p.parent.name == "ontology"
    }

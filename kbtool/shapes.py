"""Run SHACL shapes at the speed of SPARQL: compile a shapes graph once, then validate store after store.

A SHACL engine needs tenths of a second for one patient; the plain SELECT queries made here need milliseconds.
The module knows SHACL and nothing of medicine: what is right or wrong stands in the shapes.

    shapes = pyoxigraph.Store()
    shapes.load(path="shapes/facts.ttl")
    compiled = compile_shapes(shapes)        # once
    violations = validate(store, compiled)   # for each batch of patients

The store holds the facts and the knowledge base in its default graph. For speed it may hold only a part of the
knowledge base: the triples whose predicate is in `predicates_read(compiled)`, all of them.

Only a part of SHACL is understood: what is not raises `UnsupportedShape`, it is never skipped.

- targets: sh:targetNode, sh:targetClass (with subclasses), sh:targetSubjectsOf, sh:targetObjectsOf;
- node shapes with sh:property, sh:sparql and the constraints on values below;
- property shapes with a predicate or inverse path and the constraints below;
- constraints on values: sh:minCount, sh:maxCount, sh:hasValue, sh:nodeKind, sh:class, sh:datatype, sh:in, sh:pattern,
  sh:minInclusive, sh:maxInclusive, sh:minExclusive, sh:maxExclusive;
- sh:sparql with `$this` and, on a property shape, `$PATH`. `$this` is not substituted but joined: it must be bound by a
  triple pattern of each group that uses it, or stand in a filter of the outermost group.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final, NamedTuple, TypeAlias, cast

from pyoxigraph import BlankNode, DefaultGraph, Literal, NamedNode, QuerySolutions, Store, Triple

__all__ = ["CompiledConstraint", "UnsupportedShape", "Violation", "compile_shapes", "predicates_read", "validate"]

Term: TypeAlias = NamedNode | BlankNode | Literal | Triple
Resource: TypeAlias = NamedNode | BlankNode

SH: Final = "http://www.w3.org/ns/shacl#"
RDF: Final = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
RDFS: Final = "http://www.w3.org/2000/01/rdf-schema#"
XSD: Final = "http://www.w3.org/2001/XMLSchema#"
TYPE: Final = NamedNode(RDF + "type")
CLASSES: Final = (NamedNode(RDFS + "Class"), NamedNode("http://www.w3.org/2002/07/owl#Class"))
SUBCLASS: Final = NamedNode(RDFS + "subClassOf")
DEFAULT_GRAPH: Final = DefaultGraph()


class UnsupportedShape(ValueError):  # noqa: N818
    """A shape uses a construct of SHACL that the compiler does not know."""

    def __init__(self, shape: Resource, construct: str) -> None:
        super().__init__(f"{shape}: {construct} is not supported")
        self.shape = shape
        self.construct = construct


class _Targets(NamedTuple):
    """The focus nodes of a shape: a query that selects them, and what it is made of."""

    select: str
    nodes: tuple[NamedNode, ...]
    classes: tuple[NamedNode, ...]
    predicates: tuple[NamedNode, ...]


@dataclass(frozen=True, slots=True)
class CompiledConstraint:
    """One constraint of one shape as a SELECT query.

    The query binds ?this (the focus node), perhaps ?path and ?value, and the variables of the message. It is plain
    SPARQL 1.1 and can be run as it is. `targets` is the part of it that selects the focus nodes.
    """

    shape: str
    component: str
    severity: str
    query: str
    message: str
    path: str | None
    targets: _Targets


@dataclass(frozen=True, slots=True)
class Violation:
    """One result of validation: `shape` is the IRI of the shape that was broken, `severity` is Violation or Warning."""

    focus: Term
    path: str | None
    value: str | None
    message: str
    shape: str
    severity: str


def compile_shapes(shapes: Store) -> list[CompiledConstraint]:
    """Compile the shapes in the default graph to queries, in a fixed order."""
    return _Compiler(shapes).compile()


def validate(store: Store, compiled: Iterable[CompiledConstraint]) -> list[Violation]:
    """Return what is wrong in the store, sorted, each violation once."""
    census = _Census(store)
    found: set[Violation] = set()
    for constraint in compiled:
        most = census.most(constraint.targets)
        if most:
            select = constraint.targets.select
            found.update(violations(store, constraint.query.replace(select, f"{select} LIMIT {most}"), constraint))
    return in_order(found)


def predicates_read(compiled: Iterable[CompiledConstraint]) -> frozenset[NamedNode]:
    """Return the IRIs that the queries name: every predicate that they read, and some classes."""
    named: set[NamedNode] = {TYPE}
    for constraint in compiled:
        prefixes = dict(_PREFIX_LINE.findall(constraint.query))
        text = _STRING.sub("", _PREFIX_LINE.sub("", constraint.query))
        named.update(NamedNode(iri) for iri in _IRI.findall(text))
        named.update(NamedNode(prefixes[prefix] + local) for prefix, local in _NAME.findall(text))
    return frozenset(named)


_PREFIX_LINE: Final = re.compile(r"PREFIX (\w+): <([^>]*)>\n")
_STRING: Final = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_IRI: Final = re.compile(r"<([a-zA-Z][^<>\"\s]*)>")
_NAME: Final = re.compile(r"\b([A-Za-z]\w*):([A-Za-z][\w-]*)")
_FEW: Final = 50  # up to here counting in Python is faster than a query
_PLACEHOLDER: Final = re.compile(r"\{[?$](\w+)\}")


class _Census:
    """How many focus nodes the targets of a shape can have in a store, at most.

    `validate` limits the selection of focus nodes to that many: this cuts nothing off and tells Oxigraph that they are
    few. It would otherwise rather scan all types, or the whole store, than look up those of the focus nodes.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.counts: dict[NamedNode, int] = {}

    def most(self, targets: _Targets) -> int:
        counts = [*map(self.members, targets.classes), *map(self.statements, targets.predicates)]
        return len(targets.nodes) + sum(counts)

    def members(self, target: NamedNode) -> int:
        if target not in self.counts:
            self.counts[target] = self.count(_members(target, "?node"))
        return self.counts[target]

    def statements(self, predicate: NamedNode) -> int:
        if predicate not in self.counts:
            few = sum(1 for _ in islice(self.store.quads_for_pattern(None, predicate, None, DEFAULT_GRAPH), _FEW))
            self.counts[predicate] = few if few < _FEW else self.count(f"?subject {predicate} ?object")
        return self.counts[predicate]

    def count(self, pattern: str) -> int:
        rows = cast("QuerySolutions", self.store.query(f"SELECT (COUNT(*) AS ?count) WHERE {{ {pattern} }}"))
        return int(next(rows)["count"].value)


def _members(target: NamedNode, node: str) -> str:
    return f"?_class {SUBCLASS}* {target} . {node} {TYPE} ?_class"


def in_order(found: Iterable[Violation]) -> list[Violation]:
    """Violations in the order in which they are told."""
    return sorted(found, key=lambda v: (str(v.focus), v.shape, v.path or "", v.value or "", v.message))


def violations(store: Store, query: str, constraint: CompiledConstraint) -> Iterator[Violation]:
    """What a query of a constraint finds wrong in a store; the same may come twice."""
    solutions = cast("QuerySolutions", store.query(query))
    names = [variable.value for variable in solutions.variables]
    for solution in solutions:
        row: dict[str, Term] = {name: term for name, term in zip(names, solution, strict=True) if term is not None}
        path, value = row.get("path"), row.get("value")
        yield Violation(
            focus=row["this"],
            path=constraint.path if path is None else _text(path),
            value=None if value is None else _text(value),
            message=_PLACEHOLDER.sub(lambda m: _short(row[m[1]]) if m[1] in row else m[0], constraint.message),  # noqa: B023
            shape=constraint.shape,
            severity=constraint.severity,
        )


def _text(term: Term) -> str:
    return str(term) if isinstance(term, (BlankNode, Triple)) else term.value


def _short(term: Term) -> str:
    """Print a term as in a sentence: an IRI by its local name."""
    text = _text(term)
    return re.split(r"[/#]", text.rstrip("/#"))[-1] if isinstance(term, NamedNode) else text


# What a value breaks, as a condition on ?value.
_NODE_KINDS: Final = {
    "IRI": "!isIRI(?value)",
    "BlankNode": "!isBlank(?value)",
    "Literal": "!isLiteral(?value)",
    "BlankNodeOrIRI": "isLiteral(?value)",
    "IRIOrLiteral": "isBlank(?value)",
    "BlankNodeOrLiteral": "isIRI(?value)",
}
_LIMITS: Final = {"minInclusive": ">=", "maxInclusive": "<=", "minExclusive": ">", "maxExclusive": "<"}
# The datatypes that SPARQL can cast to, which tells an ill-typed literal; every text is a string.
_CAST: Final = {XSD + name for name in ("integer", "decimal", "double", "float", "boolean", "dateTime")}
_TARGETS: Final = ("targetNode", "targetClass", "targetSubjectsOf", "targetObjectsOf")
_META: Final = {"name", "description", "message", "severity", "path", "property", "sparql", *_TARGETS}
_ON_VALUES: Final = {"nodeKind", "class", "datatype", "in", "pattern", "hasValue", *_LIMITS}
_ON_PROPERTIES: Final = {"minCount", "maxCount"}
_PARAMETERS_OF_OTHERS: Final = {"flags"}
_UNSAFE_REGEX: Final = re.compile(r"\(\?[=!<]|\\[1-9]")
_UNSAFE_SELECT: Final = re.compile(r"\b(VALUES|MINUS|SERVICE)\b|\$(shapesGraph|currentShape)\b|SELECT\s*\*", re.I)
_SELECT: Final = re.compile(r"\s*SELECT(?P<head>[^{}]*\$this\b[^{}]*)WHERE\s*\{(?P<body>.*)", re.DOTALL)


class _Compiler:
    """Reads one shapes graph. Raises on the first thing that it does not know."""

    def __init__(self, shapes: Store) -> None:
        self.shapes = shapes
        self.visited: set[Resource] = set()

    def compile(self) -> list[CompiledConstraint]:
        constraints: dict[tuple[str, str, str], CompiledConstraint] = {}
        for root in sorted({s for target in _TARGETS for s in self.subjects(target)}, key=str):
            for constraint in self.shape(root, self.targets(root)):
                constraints.setdefault((constraint.shape, constraint.component, constraint.query), constraint)
        self.check_all_visited()
        return [constraints[key] for key in sorted(constraints)]

    # --- Reading the graph ---

    def subjects(self, predicate: str) -> Iterator[Resource]:
        for quad in self.shapes.quads_for_pattern(None, NamedNode(SH + predicate), None, DEFAULT_GRAPH):
            if isinstance(quad.subject, (NamedNode, BlankNode)):
                yield quad.subject

    def objects(self, subject: Resource, predicate: str) -> list[Term]:
        quads = self.shapes.quads_for_pattern(subject, NamedNode(SH + predicate), None, DEFAULT_GRAPH)
        return sorted((quad.object for quad in quads), key=str)

    def one(self, subject: Resource, predicate: str) -> Term | None:
        found = self.objects(subject, predicate)
        if len(found) > 1:
            raise UnsupportedShape(subject, f"more than one sh:{predicate}")
        return found[0] if found else None

    def text(self, subject: Resource, predicate: str) -> str | None:
        found = self.one(subject, predicate)
        return None if found is None else _text(found)

    def resource(self, shape: Resource, term: Term) -> Resource:
        if isinstance(term, (NamedNode, BlankNode)):
            return term
        raise UnsupportedShape(shape, f"{term} in place of a node")

    def list_of(self, shape: Resource, head: Term) -> Iterator[Term]:
        while head != NamedNode(RDF + "nil"):
            node = self.resource(shape, head)
            self.visited.add(node)
            first, rest = (
                [q.object for q in self.shapes.quads_for_pattern(node, NamedNode(RDF + name), None, DEFAULT_GRAPH)]
                for name in ("first", "rest")
            )
            if len(first) != 1 or len(rest) != 1:
                raise UnsupportedShape(shape, "an ill-formed list")
            yield first[0]
            head = rest[0]

    def check_predicates(self, node: Resource, known: Iterable[str]) -> None:
        self.visited.add(node)
        allowed = {SH + name for name in known}
        for quad in self.shapes.quads_for_pattern(node, None, None, DEFAULT_GRAPH):
            predicate = quad.predicate.value
            if predicate.startswith(SH) and predicate not in allowed:
                raise UnsupportedShape(node, f"sh:{predicate.removeprefix(SH)}")
            if quad.predicate == TYPE and quad.object in CLASSES:
                raise UnsupportedShape(node, "a class that is its own target")

    def check_all_visited(self) -> None:
        """What is not reached from a target would never be tested."""
        declaring = {NamedNode(SH + name) for name in ("declare", "prefix", "namespace")}
        shapes = {NamedNode(SH + name) for name in ("NodeShape", "PropertyShape")}
        for quad in self.shapes.quads_for_pattern(None, None, None, DEFAULT_GRAPH):
            of_shacl = quad.predicate.value.startswith(SH) and quad.predicate not in declaring
            if (of_shacl or (quad.predicate == TYPE and quad.object in shapes)) and quad.subject not in self.visited:
                raise UnsupportedShape(cast("Resource", quad.subject), "a shape that no target leads to")

    # --- Targets ---

    def targets(self, shape: Resource) -> _Targets:
        nodes, classes, subjects, objects = (
            tuple(self.named(shape, term) for term in self.objects(shape, name)) for name in _TARGETS
        )
        parts = [f"VALUES ?this {{ {node} }}" for node in nodes]
        parts += [_members(target, "?this") for target in classes]
        parts += [f"?this {predicate} ?_object" for predicate in subjects]
        parts += [f"?_subject {predicate} ?this" for predicate in objects]
        select = f"SELECT DISTINCT ?this WHERE {{ {{ {' } UNION { '.join(parts)} }} }}"
        return _Targets(select, nodes, classes, subjects + objects)

    def named(self, shape: Resource, term: Term) -> NamedNode:
        if isinstance(term, NamedNode):
            return term
        raise UnsupportedShape(shape, f"{term} in place of an IRI")

    # --- Shapes and constraints ---

    def shape(self, shape: Resource, targets: _Targets) -> Iterator[CompiledConstraint]:
        path = self.one(shape, "path")
        allowed = _META | _ON_VALUES | _PARAMETERS_OF_OTHERS | (_ON_PROPERTIES if path is not None else set())
        self.check_predicates(shape, allowed)
        steps = None if path is None else self.path(shape, path)
        severity = _short(self.one(shape, "severity") or NamedNode(SH + "Violation"))
        message = self.message(shape)

        def made(component: str, query: str, text: str = message) -> CompiledConstraint:
            step = None if steps is None else steps.strip("^<>")
            return CompiledConstraint(_text(shape), component, severity, query, text, step, targets)

        for component, query in self.core(shape, steps, f"{{ {targets.select} }}"):
            yield made(SH + component[0].upper() + component[1:] + "ConstraintComponent", query)
        for node in self.objects(shape, "sparql"):
            constraint = self.resource(shape, node)
            self.check_predicates(constraint, {"select", "prefixes", "message"})
            text = self.message(constraint) if self.objects(constraint, "message") else message
            yield made(SH + "SPARQLConstraintComponent", self.sparql(constraint, steps, f"{{ {targets.select} }}"), text)
        for node in self.objects(shape, "property"):
            if path is not None:
                raise UnsupportedShape(shape, "sh:property on a property shape")
            yield from self.shape(self.resource(shape, node), targets)

    def message(self, node: Resource) -> str:
        found = [m for m in self.objects(node, "message") if isinstance(m, Literal) and m.language in (None, "en")]
        return found[0].value if found else (self.text(node, "name") or f"{_short(node)} is broken")

    def path(self, shape: Resource, path: Term) -> str:
        if isinstance(path, NamedNode):
            return str(path)
        node = self.resource(shape, path)
        inverse = self.one(node, "inversePath")
        self.check_predicates(node, {"inversePath"})
        if not isinstance(inverse, NamedNode):
            raise UnsupportedShape(shape, "a path that is neither a predicate nor the inverse of one")
        return f"^{inverse}"

    def core(self, shape: Resource, path: str | None, targets: str) -> Iterator[tuple[str, str]]:
        """Yield the name of each constraint on values with its query."""
        values = f"{targets} BIND(?this AS ?value)" if path is None else f"{targets} ?this {path} ?value ."
        for name in sorted(_ON_VALUES | _ON_PROPERTIES):
            for term in self.objects(shape, name):
                if name == "minCount":
                    if _text(term) != "1":
                        raise UnsupportedShape(shape, f"sh:minCount {_text(term)}")
                    yield name, f"SELECT ?this WHERE {{ {targets} FILTER NOT EXISTS {{ ?this {path} ?value }} }}"
                elif name == "maxCount":
                    more = f"COUNT(DISTINCT ?value) > {int(_text(term))}"
                    yield name, f"SELECT ?this WHERE {{ {values} }} GROUP BY ?this HAVING({more})"
                elif name == "hasValue":
                    has = f"sameTerm(?this, {term})" if path is None else f"EXISTS {{ ?this {path} {term} }}"
                    yield name, f"SELECT ?this WHERE {{ {targets} FILTER(!{has}) }}"
                else:
                    broken = self.broken(shape, name, term)
                    yield name, f"SELECT DISTINCT ?this ?value WHERE {{ {values} FILTER({broken}) }}"

    def broken(self, shape: Resource, name: str, term: Term) -> str:
        """Return the condition on ?value that is true where the constraint is broken."""
        text = _text(term)
        if name in _LIMITS:
            return f"!COALESCE(?value {_LIMITS[name]} {term}, false)"
        if name == "class":
            return f"NOT EXISTS {{ ?value {TYPE}/{SUBCLASS}* {term} }}"
        if name == "in":
            members = [f"sameTerm(?value, {member})" for member in self.list_of(shape, term)]
            return f"!({' || '.join(members) or 'false'})"
        if name == "nodeKind" and text.removeprefix(SH) in _NODE_KINDS:
            return _NODE_KINDS[text.removeprefix(SH)]
        if name == "datatype" and (text in _CAST or text == XSD + "string"):
            cast = f" && COALESCE(STRLEN(STR({term}(STR(?value)))) > 0, false)" if text in _CAST else ""
            return f"!(isLiteral(?value) && DATATYPE(?value) = {term}{cast})"
        if name == "pattern" and not _UNSAFE_REGEX.search(text):
            flags = self.one(shape, "flags")
            return f"isBlank(?value) || !REGEX(STR(?value), {Literal(text)}{'' if flags is None else f', {flags}'})"
        raise UnsupportedShape(shape, f"sh:{name} {text}")

    def sparql(self, constraint: Resource, path: str | None, targets: str) -> str:
        """Join the targets into the query of a SPARQL constraint."""
        select = self.text(constraint, "select") or ""
        if path is not None:
            select = select.replace("$PATH", path)
        match = _SELECT.match(select)
        if match is None or _UNSAFE_SELECT.search(select) or _UNSAFE_REGEX.search(select) or "$PATH" in select:
            raise UnsupportedShape(constraint, f"the query {select!r}")
        used = set(re.findall(r"\b(\w+):\w", _STRING.sub("", re.sub(r"<[^<>\s]*>", "", select))))
        prefixes = self.prefixes(constraint)
        head = "".join(f"PREFIX {name}: <{prefixes[name]}>\n" for name in sorted(used & prefixes.keys()))
        return f"{head}SELECT{match['head']}WHERE {{ {targets} {match['body']}"

    def prefixes(self, constraint: Resource) -> dict[str, str]:
        found: dict[str, str] = {"rdf": RDF, "rdfs": RDFS}
        for ontology in self.objects(constraint, "prefixes"):
            for declaration in self.objects(self.resource(constraint, ontology), "declare"):
                node = self.resource(constraint, declaration)
                found[self.text(node, "prefix") or ""] = self.text(node, "namespace") or ""
        return found

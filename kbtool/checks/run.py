"""Run the checks: which there are, how severe each is, and every group of them, side by side where that saves time.

The checks are data: `shapes/checks.ttl` describes each with its problem and solution, `shapes/profile.ttl` gives it a
severity. A check is a query in queries/check, a shape in shapes/knowledge.ttl, or a function of one of these modules.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pyoxigraph as ox

from kbtool.checks import modules, queries, reasoning, rules, shapes, terminology, traceability
from kbtool.checks.locate import Places
from kbtool.checks.model import CannotCheckError, Check, Context, Finding, Group, Severity
from kbtool.checks.report import GroupRun, Report
from kbtool.criteria import CriterionError
from kbtool.knowledge import HOME, Knowledge, KnowledgeError
from kbtool.namespaces import CG, RDF, SKOS, local_name, text

Progress = Callable[[str], None]

_FUNCTIONS: dict[str, tuple[Group, ...]] = {
    "ModuleChecks": (modules.modules, queries.queries),
    "ShapeChecks": (shapes.shapes,),
    "ReasonerChecks": (reasoning.reasoning,),
    "RuleChecks": (rules.rules,),
    "TerminologyChecks": (terminology.terminology,),
    "TraceabilityChecks": (traceability.traceability,),
}
_BESIDE = {"ShapeChecks", "ReasonerChecks"}
"""Groups that wait for a process of their own: they run beside the others."""


def check(
    root: Path | None = None,
    *,
    profile: Path | None = None,
    cases: Path | None = None,
    groups: Iterable[str] = (),
    timeout: float = 300.0,
    fails: Severity = Severity.error,
    progress: Progress | None = None,
) -> Report:
    """Check the knowledge base with a root ontology, by default the one that comes with kbtool.

    profile: a Turtle file with severities. cases: the folder of worked patients; by default tests/patients of the project,
    where it is there and its knowledge base is checked. groups: local names of the groups to run, all where none is given.
    timeout: seconds for the reasoner. fails: the mildest severity that makes the report fail. progress is told about each
    group. Raises KnowledgeError for a profile that cannot be read and ValueError for a group that does not exist.
    """
    tell, start = progress or (lambda _: None), time.perf_counter()
    path = (root or HOME / "ontology" / "kb.ttl").resolve()
    described = _graph("checks.ttl")
    cases = cases or worked_patients(root)
    chosen = list(groups) or [name for name in _FUNCTIONS if cases or name != "TraceabilityChecks"]
    unknown = set(chosen) - _FUNCTIONS.keys()
    if unknown:
        raise ValueError(f"there is no group {', '.join(sorted(unknown))}; there are {', '.join(_FUNCTIONS)}")
    checks = [*described_checks(), *shapes.shape_checks()]
    severe = severities(profile or HOME / "shapes" / "profile.ttl", checks)
    found: list[Finding] = list(modules.unreadable(path))
    runs: list[GroupRun] = []
    about = {"iri": str(path), "version": "", "sha256": ""}
    labels = {name: _label(described, name) for name in _FUNCTIONS}
    knowledge = None
    if not found:
        try:
            knowledge = Knowledge.load(path)
        except (KnowledgeError, CriterionError) as error:
            found.append(Finding(CG["Loadable"].value, None, str(error), path))
    if knowledge is None:
        why = "the knowledge base cannot be loaded"
        runs = [GroupRun(CG[name].value, labels[name], 0.0, None if name == "ModuleChecks" else why) for name in _FUNCTIONS]
        places = Places([path])
    else:
        about = {"iri": knowledge.iri, "version": knowledge.version, "sha256": knowledge.sha256}
        places = Places([*knowledge.modules.values()])
        context = Context(knowledge, cases, timeout)
        for run, findings in _run(context, described, labels, chosen, tell):
            runs.append(run)
            found += findings
    placed = [
        replace(f, file=f.file or place[0], line=f.line or place[1]) for f in found if (place := places.of(f.subject, f.file))
    ]
    return Report(checks, severe, list(dict.fromkeys(placed)), runs, about, fails, time.perf_counter() - start)


def worked_patients(root: Path | None) -> Path | None:
    """The worked patients of the project, where they are there and its own knowledge base is meant; else None."""
    folder = HOME / "tests" / "patients"
    return folder if root is None and folder.is_dir() else None


def listing(profile: Path | None = None) -> str:
    """All checks as text: severity, name, problem and solution. Raises KnowledgeError for a profile that cannot be read."""
    checks = [*described_checks(), *shapes.shape_checks()]
    severe = severities(profile or HOME / "shapes" / "profile.ttl", checks)
    lines = [f"{severe[c.iri]}: {local_name(c.iri)}\n    {c.problem}\n    {c.solution}" for c in checks]
    return "\n".join(lines)


def _run(
    context: Context, described: ox.Store, labels: dict[str, str], chosen: list[str], tell: Progress
) -> Iterator[tuple[GroupRun, list[Finding]]]:
    with ThreadPoolExecutor(len(_BESIDE)) as pool:
        beside: dict[str, Future[tuple[list[Finding], float, str | None]]] = {}
        for name in _BESIDE & set(chosen):
            tell(f"{labels[name]}: started")
            beside[name] = pool.submit(_group, name, context)
        here = {}
        for name in _FUNCTIONS:
            if name in chosen and name not in beside:
                tell(f"{labels[name]}: started")
                here[name] = _group(name, context)
                tell(f"{labels[name]}: {here[name][1]:.1f} s")
        for name in _FUNCTIONS:
            if name not in chosen:
                missing = name == "TraceabilityChecks" and not context.cases
                why = "no worked patients were given (--cases)" if missing else "not asked for"
                yield GroupRun(CG[name].value, labels[name], 0.0, why, asked=False), []
                continue
            findings, seconds, reason = beside[name].result() if name in beside else here[name]
            if name in beside:
                tell(f"{labels[name]}: {seconds:.1f} s")
            findings += _queries(context.knowledge, described, name)
            yield GroupRun(CG[name].value, labels[name], seconds, reason), findings


def _group(name: str, context: Context) -> tuple[list[Finding], float, str | None]:
    """Run one group: its findings, how many seconds it took, and why it could not run, where it could not."""
    start = time.perf_counter()
    found: list[Finding] = []
    reason = None
    for function in _FUNCTIONS[name]:
        try:
            found += function(context)
        except CannotCheckError as error:
            reason = str(error)
    return found, time.perf_counter() - start, reason


def _queries(knowledge: Knowledge, described: ox.Store, group: str) -> list[Finding]:
    """What the queries of a group find."""
    found: list[Finding] = []
    for quad in described.quads_for_pattern(None, CG["query"], None, None):
        if ox.Quad(quad.subject, CG["group"], CG[group]) in described:
            found += shapes.run_query(knowledge, text(quad.subject), HOME / "queries" / "check" / f"{text(quad.object)}.rq")
    return found


def _graph(name: str) -> ox.Store:
    graph = ox.Store()
    graph.load((HOME / "shapes" / name).read_bytes(), ox.RdfFormat.TURTLE)
    return graph


def described_checks() -> list[Check]:
    """The checks of shapes/checks.ttl, in the order of their groups."""
    described = _graph("checks.ttl")
    found = []
    for quad in described.quads_for_pattern(None, RDF["type"], CG["Check"], None):
        values = {
            name: next((text(q.object) for q in described.quads_for_pattern(quad.subject, term, None, None)), "")
            for name, term in (
                ("label", SKOS["prefLabel"]),
                ("group", CG["group"]),
                ("problem", CG["problem"]),
                ("solution", CG["solution"]),
            )
        }
        found.append(Check(text(quad.subject), **values))
    groups = list(_FUNCTIONS)
    return sorted(found, key=lambda c: (groups.index(local_name(c.group)), c.iri))


def _label(described: ox.Store, group: str) -> str:
    return next((text(q.object) for q in described.quads_for_pattern(CG[group], SKOS["prefLabel"], None, None)), group)


def severities(profile: Path, checks: list[Check]) -> dict[str, Severity]:
    """The severity of each check by a profile: error where it is not listed. Raises KnowledgeError."""
    graph = ox.Store()
    try:
        graph.load(profile.read_bytes(), ox.RdfFormat.TURTLE)
    except SyntaxError as error:
        raise KnowledgeError(f"{profile}: not valid Turtle: {error.msg}") from error
    except OSError as error:
        raise KnowledgeError(f"{profile}: cannot be read: {error.strerror}") from error
    found = {check.iri: Severity.error for check in checks}
    for severity in Severity:
        for quad in graph.quads_for_pattern(None, CG[severity.value], None, None):
            if text(quad.object) not in found:
                raise KnowledgeError(f"{profile}: {text(quad.object)} is no check; `kbtool check --list` lists them")
            found[text(quad.object)] = severity
    return found

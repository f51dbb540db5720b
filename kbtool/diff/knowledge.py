"""What changed between two knowledge bases, term by term and in words, what matters most to patients first.

Nothing is left out: what no section is made for stands in the last ones. Changes that keep the meaning stand apart.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from decimal import Decimal

import pyoxigraph as ox

from kbtool.criteria import Expression, Named
from kbtool.diff.criteria import aligned, outline, same_meaning, settled
from kbtool.diff.model import SECTIONS, Detail, Entry, KnowledgeDiff
from kbtool.diff.terms import Term, Terms, Value, label_of, number, plain
from kbtool.docs_guide import RULES
from kbtool.namespaces import CG, DCTERMS, OWL, RDF, RDFS, SKOS, local_name, text

_KIND_SECTION = {
    "Parameter": "numbers",
    "MissingParameter": "numbers",
    **dict.fromkeys(RULES, "rules"),
    "UnitConversion": "facts",
    "Attribute": "facts",
    **dict.fromkeys(("Code", "CodeSystem", "CodeProperty"), "codes"),
    **dict.fromkeys(("Statement", "StatementType", "Reference", "OpenQuestion"), "statements"),
    **dict.fromkeys(("Interpretation", "LocalPolicy", "Assumption"), "statements"),
}
_PHRASES = {
    CG["acceptsUnit"].value: "unit",
    CG["accompanies"].value: "goes with",
    CG["achieves"].value: "brings about",
    CG["appliesTo"].value: "condition",
    CG["citesStatement"].value: "cites",
    CG["hasCode"].value: "code",
    CG["hasMissingParameter"].value: "number that the source does not give",
    CG["hasParameter"].value: "parameter",
    CG["opensBy"].value: "opened by",
    CG["parameterRange"].value: "range",
    CG["rank"].value: "rank",
    CG["requires"].value: "waits for",
    CG["requiresAbsenceOf"].value: "waits for the end of",
    DCTERMS["source"].value: "source",
    OWL["equivalentClass"].value: "definition",
    OWL["imports"].value: "imports",
    OWL["versionInfo"].value: "version",
    RDF["type"].value: "kind",
    RDFS["label"].value: "label",
    RDFS["subClassOf"].value: "is a",
    SKOS["prefLabel"].value: "label",
    SKOS["altLabel"].value: "other label",
    SKOS["definition"].value: "text",
    SKOS["editorialNote"].value: "note",
    SKOS["scopeNote"].value: "scope note",
    CG["statusProperty"].value: "link from a patient",
}
_ORDER = {
    CG[name].value: place
    for place, name in enumerate(
        [
            "appliesTo",
            "raisedByOrder",
            "unless",
            "hardStopWhen",
            "requires",
            "requiresAbsenceOf",
            "metWhen",
            "opensBy",
            "achieves",
            "measures",
            "accompanies",
            "action",
            "forbids",
            "forbidsOrder",
            "touches",
            "emergency",
            "severity",
            "strength",
            "hasParameter",
            "hasMissingParameter",
            "amount",
            "parameterRange",
            "ucum",
            "step",
            "rank",
            "currencyHours",
            "canonicalUnit",
            "acceptsUnit",
            "factor",
            "offset",
            "plausibleMinimum",
            "plausibleMaximum",
            "usualMinimum",
            "usualMaximum",
            "hasCode",
        ]
    )
}
_TEXTS = {
    *(SKOS[name].value for name in ("prefLabel", "altLabel", "note", "definition", "editorialNote", "scopeNote", "example")),
    *(SKOS[name].value for name in ("changeNote", "historyNote")),
    *(RDFS[name].value for name in ("label", "comment", "seeAlso")),
}
_CITATIONS = {
    *(CG[name].value for name in ("citesSource", "citesStatement", "reference", "statementType")),
    DCTERMS["source"].value,
}
_SCOPING = {CG["scope"].value, OWL["imports"].value}
_SHOWN_WITH_A_RULE = {SKOS["prefLabel"].value, RDFS["label"].value, SKOS["definition"].value}
_REPLACED = {OWL["deprecated"].value, DCTERMS["isReplacedBy"].value}
_IN_UNIT = {CG[name].value for name in ("amount", "plausibleMinimum", "plausibleMaximum", "usualMinimum", "usualMaximum")}
_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w]|\.\d)")
_INDIVIDUAL = str(OWL["NamedIndividual"])


def compare(old: Terms, new: Terms, borrowed: Sequence[Collection[str]] = ((), ())) -> KnowledgeDiff:
    """Compare two knowledge bases. borrowed: for each side the modules (IRIs) that it does not hold itself."""
    return _Comparison(old, new).run(borrowed)


class _Comparison:
    def __init__(self, old: Terms, new: Terms) -> None:
        self.old, self.new = old, new
        self.sections: dict[str, list[Entry]] = {key: [] for key in SECTIONS}

    def run(self, borrowed: Sequence[Collection[str]]) -> KnowledgeDiff:
        for iri in self._in_order(self.old.found.keys() | self.new.found.keys()):
            before, after = self.old.found.get(iri), self.new.found.get(iri)
            if before and after:
                self._changed(iri, before, after)
            elif before:
                self._whole(iri, before, self.old, "removed")
            elif after:
                self._whole(iri, after, self.new, "added")
        self._moved()
        self._borrowed(*borrowed)
        self._same_label()
        rank = {"added": 0, "removed": 1, "changed": 2}
        self.sections["rules"].sort(key=lambda entry: rank[entry.change])
        sections = {key: entries for key, entries in self.sections.items() if entries}
        return KnowledgeDiff(sections, self._affected(sections))

    def _in_order(self, terms: Iterable[str]) -> list[str]:
        """Terms in the order of the guideline that has them, the new one first."""
        some = set(terms)
        order = [*self.new.guide.sort(t for t in some if t in self.new.found)]
        return order + self.old.guide.sort(some - set(order))

    # --- One term --------------------------------------------------------------------------------------

    def _section(self, iri: str, terms: Terms) -> str:
        kind = terms.kind(iri)
        if kind == OWL["Ontology"].value:
            return "modules"
        if terms.is_threshold(iri):
            return "thresholds"
        if iri in terms.words.criteria:
            return "conditions"
        if terms.is_fact(iri):
            return "facts"
        name = local_name(kind) if kind.startswith(CG.iri) else ""
        if name in _KIND_SECTION:
            return _KIND_SECTION[name]
        if name:
            return "parts"
        if iri.startswith(CG.iri) or kind.endswith("Property"):
            return "language"
        return "rest"

    def _entry(self, iri: str, terms: Terms, change: str, details: Iterable[Detail] = (), notes: Iterable[str] = ()) -> Entry:
        kind = terms.guide.kind(iri) if not iri.startswith("_:") else "Axiom"
        label = ", ".join(self._structure(iri, terms)) if iri.startswith("_:") else label_of(terms.found[iri], terms)
        rules: dict[str, None] = {}
        for side in (self.new, self.old):
            rules |= dict.fromkeys(side.words.label(rule) for rule in side.rules_on.get(iri, ()))
        return Entry(iri, kind, label, change, tuple(details), tuple(rules), tuple(notes))

    @staticmethod
    def _structure(iri: str, terms: Terms) -> list[str]:
        values = [v for found in terms.found[iri].values.values() for v in found.values()]
        return [terms.words.label(each) for value in values for _, each in value.inside]

    def _whole(self, iri: str, term: Term, terms: Terms, change: str) -> None:
        """A term that is on one side only: all that it states."""
        nothing = Term(iri)
        pair = (term, nothing) if change == "removed" else (nothing, term)
        section = self._section(iri, terms)
        section = "scope" if section == "modules" else section
        details = [d for d in self._details(*pair) if d.what != "kind" and not (d.what == "label" and d.prose)]
        if section == "thresholds":
            limit = (terms.guide.threshold(iri),)
            details = [
                _one_sided("limit", limit, change),
                *(d for d in details if d.what != _PHRASES[OWL["equivalentClass"].value]),
            ]
        self.sections[section].append(self._entry(iri, terms, change, details))

    def _changed(self, iri: str, before: Term, after: Term) -> None:
        """A term that is on both sides: what differs, in the sections where a reader looks for it."""
        section = self._section(iri, self.new)
        details = list(self._details(before, after))
        kept: list[Detail] = []
        by_section: dict[str, list[Detail]] = defaultdict(list)
        notes: list[str] = []
        for detail in details:
            if detail.what in ("deprecated", "is replaced by"):
                by_section["deprecated"].append(detail)
            elif section == "modules" and detail.decides:
                by_section["scope"].append(detail)
            elif detail.prose and section not in ("statements", "modules", "language", "rest"):
                with_rule = section == "rules" and detail.what in ("label", "text")
                by_section[section if with_rule else "words"].append(detail)
            elif detail.what == _PHRASES[OWL["equivalentClass"].value] and not detail.lines:
                kept.append(detail)
            else:
                by_section[section].append(detail)
        for detail in kept:
            limits = [terms.guide.facets(iri).limits for terms in (self.old, self.new)]
            if any(limits) and _numbers(limits[0]) != _numbers(limits[1]):
                words = [terms.guide.threshold(iri) for terms in (self.old, self.new)]
                by_section[section].append(Detail("limit", (words[0],), (words[1],)))
                notes += self._stale(iri, {Decimal(n) for _, n in limits[0]} - {Decimal(n) for _, n in limits[1]})
            else:
                by_section["same"].append(Detail(detail.what))
        amounts = [{Decimal(n) for n in term.texts(CG["amount"])} for term in (before, after)]
        if amounts[0] != amounts[1]:
            notes += self._stale(iri, amounts[0] - amounts[1])
        for key, found in by_section.items():
            self.sections[key].append(self._entry(iri, self.new, "changed", found, notes if key == section else ()))

    # --- Properties ------------------------------------------------------------------------------------

    def _details(self, before: Term, after: Term) -> Iterator[Detail]:
        predicates = before.values.keys() | after.values.keys()
        shown: set[tuple[str, tuple[str, ...], tuple[str, ...]]] = set()
        for predicate in sorted(predicates, key=lambda p: (_ORDER.get(p, 99), self._phrase(p), p)):
            gone = {k: v for k, v in before.values.get(predicate, {}).items() if k not in after.values.get(predicate, {})}
            come = {k: v for k, v in after.values.get(predicate, {}).items() if k not in before.values.get(predicate, {})}
            gone.pop(_INDIVIDUAL, None), come.pop(_INDIVIDUAL, None)
            if not gone and not come:
                continue
            detail = self._detail(predicate, before, after, gone, come)
            if (detail.what, detail.old, detail.new) not in shown or detail.lines:
                shown.add((detail.what, detail.old, detail.new))
                yield detail

    def _detail(self, predicate: str, before: Term, after: Term, gone: dict[str, Value], come: dict[str, Value]) -> Detail:
        what = self._phrase(predicate)
        if predicate == OWL["equivalentClass"].value:
            return Detail(what, lines=self._definition(before.iri, bool(before.values), bool(after.values)))
        old = [self._say(v, predicate, before, self.old) for v in gone.values()]
        new = [self._say(v, predicate, after, self.new) for v in come.values()]
        if set(old) & set(new):
            old, new = (
                [f"{w} [{v.key}]" for w, v in zip(words, found.values(), strict=True)]
                for words, found in ((old, gone), (new, come))
            )
        is_module = OWL["Ontology"].value in (*before.texts(RDF["type"]), *after.texts(RDF["type"]))
        decides = predicate in _SCOPING if is_module else predicate not in _TEXTS | _CITATIONS
        detail = Detail(what, tuple(sorted(old)), tuple(sorted(new)), prose=predicate in _TEXTS, decides=decides)
        if predicate == CG["appliesTo"].value and len(gone) == len(come) == 1:
            pair = [self._meaning(next(iter(found.values())), terms) for found, terms in ((gone, self.old), (come, self.new))]
            if pair[0] is not None and pair[1] is not None and settled(pair[0]) != settled(pair[1]):
                detail = replace(detail, lines=aligned(pair[0], pair[1], self.old.words, self.new.words))
        return detail

    def _definition(self, iri: str, had: bool, has: bool) -> tuple[str, ...]:
        """The definition of a criterion, with what goes and comes; nothing where the meaning stays or it is no criterion."""
        sides = [terms.words.criteria.get(iri) if there else None for terms, there in ((self.old, had), (self.new, has))]
        if sides[0] and sides[1]:
            old, new = sides[0].expression, sides[1].expression
            if same_meaning(old, new, self.old.words, self.new.words):
                return ()
            return aligned(old, new, self.old.words, self.new.words)
        if sides[0]:
            return tuple(f"- {line}" for line in outline(settled(sides[0].expression), self.old.words))
        if sides[1]:
            return tuple(f"+ {line}" for line in outline(settled(sides[1].expression), self.new.words))
        return ()

    @staticmethod
    def _meaning(value: Value, terms: Terms) -> Expression | None:
        iri = text(value.term) if value.term is not None else ""
        criterion = terms.words.criteria.get(iri)
        return criterion.expression if criterion else Named(iri) if iri else None

    def _phrase(self, predicate: str) -> str:
        """A property in words: its label on either side, or its name spelled out."""
        known = _PHRASES.get(predicate)
        return known or self.new.knowledge.labels.get(predicate) or self.old.guide.label(predicate)

    def _stated(self, pair: tuple[str, str], terms: Terms) -> str:
        """What a structure states, in words; the places of a list have none."""
        predicate, value = pair
        words = terms.words.label(value)
        return words if predicate.startswith(RDF.iri) else f"{self._phrase(predicate)}: {words}"

    def _say(self, value: Value, predicate: str, term: Term, terms: Terms) -> str:
        """A value in words."""
        if value.term is None:
            return "; ".join(self._stated(each, terms) for each in value.inside)
        if isinstance(value.term, ox.Literal):
            words = text(plain(value.term))
            if predicate in _IN_UNIT:
                units = [*term.texts(CG["ucum"]), *term.texts(CG["canonicalUnit"])]
                return " ".join([words, *units[:1]])
            return words
        iri = value.term.value
        target = terms.found.get(iri)
        if target is None:
            return terms.knowledge.labels.get(iri) or iri
        kind = terms.kind(iri)
        if kind == CG["UnitConversion"].value:
            numbers = [f"{name} {number(n)}" for name in ("factor", "offset") for n in target.texts(CG[name])]
            return f"{' '.join(target.texts(CG['ucum']))} ({', '.join(numbers)})"
        if kind == CG["Code"].value:
            return f"{label_of(target, terms)} “{' '.join(target.texts(CG['display']))}”"
        if kind == CG["Parameter"].value:
            units = target.texts(CG["ucum"])
            limits = [terms.guide.threshold(r) for r in target.texts(CG["parameterRange"])]
            return " ".join(
                [label_of(target, terms), *limits, *(f"{number(n)} {' '.join(units)}" for n in target.texts(CG["amount"]))]
            )
        return " ".join([*target.texts(DCTERMS["identifier"]), label_of(target, terms)])

    # --- What a reviewer should look at ----------------------------------------------------------------

    def _stale(self, iri: str, gone: set[Decimal]) -> Iterator[str]:
        """Texts about a number that was changed that stayed as they were and still say the old one."""
        guide = self.new.guide
        owners = [iri, *guide.by(iri, "definesRange"), *guide.by(iri, "parameterRange"), *guide.mentioned(iri)]
        parameters = [each for each in owners if self.new.kind(each) == CG["Parameter"].value]
        rules = [rule for each in parameters for rule in guide.by(each, "hasParameter")]
        owners += [statement for rule in rules for statement in guide.cg(rule, "citesStatement")]
        for owner in dict.fromkeys(owners):
            words = guide.definition(owner)
            said = {Decimal(n) for n in _NUMBER.findall(words)}
            if words == self.old.guide.definition(owner) and (still := said & gone):
                numbers = ", ".join(format(n.normalize(), "f") for n in sorted(still))
                yield f"the words of {guide.name(owner)} [{local_name(owner)}] still say {numbers}: “{words}”"

    def _same_label(self) -> None:
        """Say of a term that is gone which new one has its label."""
        for key, entries in self.sections.items():
            added = {(e.kind, e.label): e for e in entries if e.change == "added"}
            removed = {(e.kind, e.label): e for e in entries if e.change == "removed"}
            for pair in added.keys() & removed.keys():
                one, other = added[pair], removed[pair]
                notes = {
                    one.iri: f"{other.name}, which is removed, has the same label",
                    other.iri: f"{one.name}, which is added, has the same label",
                }
                entries = [replace(e, notes=(*e.notes, notes[e.iri])) if e in (one, other) else e for e in entries]
            self.sections[key] = entries

    def _moved(self) -> None:
        """What is stated by another module than before: whose word it is."""
        found: dict[tuple[str, str], list[str]] = defaultdict(list)
        for iri in self._in_order(self.old.found.keys() & self.new.found.keys()):
            sides = []
            for terms in (self.old, self.new):
                places: dict[tuple[str, str], set[str]] = defaultdict(set)
                for module, predicate, key in terms.found[iri].modules:
                    places[predicate, key].add(module)
                sides.append(places)
            for pair in sorted(sides[0].keys() & sides[1].keys()):
                before, after = sides[0][pair], sides[1][pair]
                if before != after:
                    found[", ".join(sorted(before - after)), ", ".join(sorted(after - before))].append(iri)
        for (before_module, after_module), terms_moved in found.items():
            labels = tuple(dict.fromkeys(label_of(self.new.found[iri], self.new) for iri in terms_moved))
            titles = [self._title(before_module, self.old), self._title(after_module, self.new)]
            rules = dict.fromkeys(
                self.new.words.label(r)
                for iri in terms_moved
                for r in (*([iri] if iri in self.new.rules else []), *self.new.rules_on.get(iri, ()))
            )
            detail = Detail("stated by", (titles[0],) if titles[0] else (), (titles[1],) if titles[1] else ())
            label = ", ".join(labels)
            self.sections["owners"].append(
                Entry(after_module or before_module, "Module", label, "changed", (detail,), tuple(rules))
            )

    def _borrowed(self, old: Collection[str], new: Collection[str]) -> None:
        """What one side holds, and the other takes from the kbtool that compares."""
        for iri in self._in_order(self.old.found.keys() & self.new.found.keys() & (set(old) ^ set(new))):
            was, now = (("this kbtool",) if iri in side else ("its own project",) for side in (old, new))
            self.sections["scope"].append(self._entry(iri, self.new, "changed", [Detail("read from", was, now)]))

    @staticmethod
    def _title(modules: str, terms: Terms) -> str:
        return ", ".join(label_of(terms.found[m], terms) if m in terms.found else m for m in filter(None, modules.split(", ")))

    def _affected(self, sections: dict[str, list[Entry]]) -> dict[str, list[str]]:
        """For each rule what of itself and of what it rests on is changed."""
        changed = dict.fromkeys(entry.iri for entry in KnowledgeDiff(sections).deciding())
        parts = {entry.iri for entry in sections.get("scope", ())}
        scoping = {iri for iri in parts if self._scope(iri, self.old) != self._scope(iri, self.new)}
        found: dict[str, list[str]] = {}
        for terms in (self.new, self.old):
            for rule in terms.rules:
                modules = set(terms.guide.values(rule, RDFS["isDefinedBy"]))
                # A module without a scope of its own speaks for whomever the others speak for.
                mine_by = parts & modules if any(self._scope(m, terms) for m in modules) else parts & modules | scoping
                mine = [iri for iri in changed if iri == rule or iri in terms.rests_on[rule] or iri in mine_by]
                if mine:
                    found[rule] = list(dict.fromkeys([*found.get(rule, []), *mine]))
        return found

    @staticmethod
    def _scope(module: str, terms: Terms) -> list[str]:
        return terms.found[module].texts(CG["scope"]) if module in terms.found else []


def _one_sided(what: str, words: tuple[str, ...], change: str) -> Detail:
    return Detail(what, words if change == "removed" else (), words if change == "added" else ())


def _numbers(limits: tuple[tuple[str, str], ...]) -> set[tuple[str, Decimal]]:
    return {(facet, Decimal(number)) for facet, number in limits}

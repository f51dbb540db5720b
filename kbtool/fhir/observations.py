"""Read Observation: measurements, settings of treatments, and findings that are seen to be there or not."""

from __future__ import annotations

from typing import Any

from kbtool.fhir.alike import Alike
from kbtool.fhir.elements import effective, references, values_of
from kbtool.fhir.outcomes import CODE, START, STATE, TIME, VALUE, Fact, Outcome, amount_pairs, exact_time, text_term
from kbtool.fhir.reader import ResourceReader
from kbtool.fhir.tables import NOTHING, Match, Tables
from kbtool.fhir.values import Coded, UnusableError, amount, coded, codings, shown

Json = dict[str, Any]

_MEASURED = frozenset({"Observation", "Setting", "Finding"})
_FOUND = frozenset({"Finding"})


class Observations(ResourceReader):
    """Reads observations and their components."""

    def __init__(self, tables: Tables) -> None:
        super().__init__(tables)
        self.alike = Alike({table.path[0] for table in self.status_of.get("Observation", ())} - {"status"})

    def observation(self, resource: Json, outcome: Outcome) -> None:
        """What an observation and its components state."""
        key, form = self.alike.find(resource) if outcome.entry.plain else (None, None)
        if form is not None and self.alike.fill(form, resource, outcome):
            return
        self.read(resource, outcome)
        if key is not None and form is None:
            self.alike.learn(key, outcome)

    def read(self, resource: Json, outcome: Outcome) -> None:
        """What an observation states, whatever others like it stated."""
        said = coded(resource.get("code"))
        components = resource.get("component")
        components = components if isinstance(components, list) else []
        values = values_of(resource)
        match = self.tables.match(said.codings, _MEASURED)
        if match is NOTHING and not values and "dataAbsentReason" not in resource and (components or resource.get("hasMember")):
            pass
        else:
            self._measured(resource, resource, outcome, said, match, values)
        for index, component in enumerate(components):
            if isinstance(component, dict):
                outcome.part = f".component[{index}]"
                said = coded(component.get("code"))
                known = self.tables.match(said.codings, _MEASURED)
                self._measured(resource, component, outcome, said, known, values_of(component), f"#component-{index}")

    def _measured(
        self, resource: Json, body: Json, outcome: Outcome, said: Coded, match: Match, values: Json, suffix: str = ""
    ) -> None:
        """One body of an observation: the resource itself or a component, with its code. suffix: of the IRI of the fact."""
        asserted = match is NOTHING and "valueCodeableConcept" in values and len(values) == 1
        if asserted:
            value = coded(values["valueCodeableConcept"])
            match = self.tables.match(value.codings, _FOUND)
        if match is NOTHING:
            self.unknown(resource, outcome, said, _MEASURED)
            return
        concept = match.concept
        outcome.code = value.shown if asserted else said.shown
        try:
            if concept is None:
                raise UnusableError(match.problem or "its code is not known")
            reading = self.counts(resource, outcome, concept) if self.usable(resource, outcome, concept) else None
            if reading is None:
                return
            if resource.get("focus"):
                raise UnusableError("it is about something other than the patient (focus)")
            if concept.kind == "Finding":
                fact = self._seen(resource, body, outcome, match, reading, values, asserted)
            else:
                fact = self._quantity(resource, body, outcome, match, reading, values)
            fact.part = suffix
            self.stated(resource, outcome, fact)
            outcome.facts.append(fact)
        except UnusableError as error:
            withdrawn = self.reading(resource)[0] == "DoesNotCount"
            outcome.skip(str(error), concept.name if concept else match.near, matters=not withdrawn)

    def _quantity(self, resource: Json, body: Json, outcome: Outcome, match: Match, reading: str, values: Json) -> Fact:
        """A measurement, or a setting of a treatment. Raises UnusableError."""
        concept = match.concept
        assert concept is not None
        absent = body.get("dataAbsentReason")
        if absent is not None:
            raise UnusableError(f"the value is absent: {shown(absent) or 'no reason is given'}")
        if not values:
            raise UnusableError("it has no value")
        if len(values) > 1 or "valueQuantity" not in values:
            kinds = ", ".join(sorted(v.removeprefix("value") for v in values))
            raise UnusableError(f"its value is given as {kinds} and not as a quantity with a unit")
        found = amount(values["valueQuantity"], concept, self.tables)
        pairs = amount_pairs(found, VALUE)
        fact = Fact(concept, pairs)
        when = effective(resource, concept)
        if concept.kind == "Setting":
            if reading != "Counts":
                raise UnusableError("its status says that it is not final")
            if when is not None:
                pairs.append((START, exact_time(when, "the time")))
                fact.at = when.exact
            fact.refers = references(resource.get("partOf"), outcome)
            return fact
        if when is None:
            raise UnusableError("it is not said when the sample was taken or the measurement made")
        pairs.append((TIME, exact_time(when, "the time")))
        if match.code is not None and not match.own:
            pairs.append((CODE, text_term(match.code)))
        if reading in self.states:
            pairs.append((STATE, self.states[reading]))
        return fact

    def _seen(
        self, resource: Json, body: Json, outcome: Outcome, match: Match, reading: str, values: Json, asserted: bool
    ) -> Fact:
        """A finding in an observation: named by the code with an answer, or by the value of a code that asserts it.

        Raises UnusableError.
        """
        concept = match.concept
        assert concept is not None
        if reading != "Counts":
            raise UnusableError("its status says that it is not final")
        if asserted:
            table = self.tables.status("Observation", "code")
            if table is None or not any(table.read(c, self.tables.system(s)) == "Counts" for s, c in codings(body.get("code"))):
                under = shown(body.get("code")) or "none"
                raise UnusableError(f"it is the value under a code ({under}) that does not say that the patient has it")
            present = True
        else:
            present = self._present(body, values)
        when = effective(resource, None)
        if not present:
            outcome.skip("it says that the finding is absent", concept.name, matters=False)
        return Fact(concept, [], source="Observation", at=when.exact if when else None, absent=not present)

    def _present(self, body: Json, values: Json) -> bool:
        if body.get("dataAbsentReason") is not None or len(values) != 1:
            raise UnusableError("it names a finding and does not say whether it is there")
        (element, value), table = next(iter(values.items())), self.tables.status("Observation", "value")
        if element == "valueBoolean" and isinstance(value, bool):
            return value
        if element == "valueCodeableConcept" and table is not None:
            said = {table.read(code, self.tables.system(system)) for system, code in codings(value)} - {None}
            if said == {"Counts"} or said == {"DoesNotCount"}:
                return said == {"Counts"}
        raise UnusableError("it names a finding, and its value does not say in a known code whether it is there")

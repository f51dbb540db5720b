"""From one FHIR resource to facts: which reader reads which resource type."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from kbtool.fhir.documents import Entry, Scope
from kbtool.fhir.drugs import Drugs
from kbtool.fhir.events import Events
from kbtool.fhir.observations import Observations
from kbtool.fhir.outcomes import Outcome
from kbtool.fhir.tables import Tables

Json = dict[str, Any]


class Translator:
    """Turns resources into outcomes by the tables of a knowledge base."""

    def __init__(self, tables: Tables) -> None:
        drugs, events = Drugs(tables), Events(tables)
        self.readers: dict[str, Callable[[Json, Outcome], None]] = {
            "Observation": Observations(tables).observation,
            "Condition": events.condition,
            "Procedure": events.procedure,
            "Encounter": events.encounter,
            "MedicationRequest": drugs.medication_request,
            "MedicationStatement": drugs.medication_statement,
            "MedicationAdministration": drugs.medication_administration,
            "ServiceRequest": drugs.service_request,
        }

    def translate(self, entry: Entry, scope: Scope) -> Outcome:
        """What a resource states, with the resources that it may point at."""
        outcome = Outcome(entry, scope)
        reader = self.readers.get(entry.kind)
        if reader is None:
            outcome.unneeded.append(entry.kind)
        else:
            reader(entry.resource, outcome)
        return outcome


translator = lru_cache(maxsize=4)(Translator)
"""The translator of some tables, made once."""

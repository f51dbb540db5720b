"""Measure a CDS Hooks call for a rich patient, in this process; beside it what it consists of.

    python tests/benchmarks/bench_hooks.py [--calls 200]

Prints medians and 99th percentiles of processor time; nothing is asserted, because the machine decides.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from hooks_requests import Json, bundle, encoded, kb, request

from kbtool import engine, hooks
from kbtool.fhir.read import loads
from kbtool.hooks.cards import Deck
from kbtool.hooks.request import parse

NOW = datetime(2026, 2, 10, 12, tzinfo=UTC)


def rich(hook: str) -> Json:
    """A patient with many results, conditions and drugs, most of which the guideline does not ask for."""
    document = request("P22", hook)
    prefetch, patient = document["prefetch"], document["context"]["patientId"]
    base: Json = {"subject": {"reference": f"Patient/{patient}"}}
    results = prefetch["observations-local"]["entry"][0]["resource"]
    old = [results | {"id": f"o{n}", "effectiveDateTime": f"2025-{1 + n % 12:02}-{1 + n % 28:02}T06:40:00Z"} for n in range(60)]
    prefetch["observations-day"] = bundle(old)
    unknown = {"coding": [{"system": "http://snomed.info/sct", "code": "195967001", "display": "Asthma"}], "text": "Asthma"}
    conditions = [{"resourceType": "Condition", "id": f"c{n}", "code": unknown, **base} for n in range(20)]
    prefetch["conditions"]["entry"] += bundle(conditions)["entry"]
    drug = {
        "resourceType": "MedicationRequest",
        "status": "active",
        "intent": "order",
        "medicationCodeableConcept": unknown,
        **base,
    }
    prefetch["medication-requests"] = bundle([drug | {"id": f"m{n}"} for n in range(20)])
    return document


def measured(what: str, action: Callable[[], object], calls: int) -> None:
    taken = []
    for _ in range(calls):
        start = time.process_time()
        action()
        taken.append((time.process_time() - start) * 1000)
    high = statistics.quantiles(taken, n=100)[98]
    print(f"{what:<64} p50 {statistics.median(taken):>7.2f} ms   p99 {high:>7.2f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=200)
    calls = parser.parse_args().calls
    base = kb()
    hooks.discovery(base)
    for hook in hooks.HOOKS:
        body = encoded(rich(hook))
        service = next(identifier for identifier, each in hooks.services(base).items() if each == hook)
        status, answer = hooks.call(base, service, body, now=NOW)
        shown = [card["summary"][:60] for card in answer.get("cards", ())]
        print(f"{hook}: {len(body) / 1024:.0f} KB, status {status}, {len(shown)} cards: {shown[:1]}")
        measured("  call", lambda b=body, s=service: hooks.call(base, s, b, now=NOW), calls)
    asked = parse(base.knowledge, hook, body)
    facts, moment = asked.read.facts(), engine.parse_as_of(NOW)
    data = next(engine.assess(base.knowledge, facts, moment)).data
    print("parts of the last:")
    measured("  JSON alone (loads)", lambda: loads(body), calls)
    measured("  request: JSON, checks, FHIR to facts (parse)", lambda: parse(base.knowledge, hook, body), calls)
    measured("  the engine (engine.assess)", lambda: list(engine.assess(base.knowledge, facts, moment)), calls)
    measured("  cards", lambda: Deck(base, asked, data, service).cards(), calls)
    measured("peer in the same run: json.loads and json.dumps of the body", lambda: json.dumps(json.loads(body)), calls)


if __name__ == "__main__":
    main()

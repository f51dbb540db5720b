"""FHIR documents: JSON that keeps its digits, the resources in it, and where their references lead."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import pyoxigraph as ox

from kbtool.facts import BASE, FactsError
from kbtool.fhir.times import seconds
from kbtool.fhir.values import Digits
from kbtool.json_text import JsonError, decoder, parsed

Json = dict[str, Any]

_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_IRI = re.compile(r"(https?://|urn:(uuid|oid):)[^\x00-\x20<>\"{}|\\^`]+")
_PLAIN_IRI = re.compile(r"https?://[A-Za-z0-9][A-Za-z0-9.-]*(/[A-Za-z0-9._~-]+)+|urn:uuid:[0-9a-fA-F-]{36}")
_RELATIVE = re.compile(r"[A-Z][A-Za-z]+/[A-Za-z0-9\-.]{1,64}")
_HISTORY = re.compile(r"/_history/[^/]*$")
_ESCAPED_LETTER = re.compile(rb"\\u00[4-7]")
"""A letter of ASCII as JSON can also write it."""


_DECODER = decoder(Digits)


def loads(data: bytes | str, name: str = "<bytes>") -> Any:
    """JSON in which a number with a fraction or an exponent keeps its characters (as `Digits`). Raises FactsError."""
    try:
        return parsed(data, _DECODER)
    except JsonError as error:
        raise FactsError(f"{name}: {error}") from None


def is_fhir(data: bytes) -> bool:
    """Whether JSON, or the first line of NDJSON, is FHIR: an object with a resourceType, and no JSON-LD."""
    if b'"resourceType"' not in data or data.lstrip()[:1] != b"{":
        return False
    try:
        first, _ = _DECODER.raw_decode(data.lstrip().decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return True
    return isinstance(first, dict) and "resourceType" in first and not any(key.startswith("@") for key in first)


def documents(data: bytes, name: str = "<bytes>") -> Iterator[tuple[Json, bool]]:
    """The resources and Bundles of a file: one JSON object, or NDJSON with one a line; with each, whether it is plain, which
    is to be known to hold no modifierExtension. Raises FactsError."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    if not data.strip():
        raise FactsError(f"{name}: the file is empty")
    head, newline, rest = data.lstrip().partition(b"\n")
    try:
        first = parsed(head, _DECODER)
        many = bool(newline) and bool(rest.strip())
    except JsonError:
        first, many = None, False
    if not many:
        yield _resource(first if first is not None else loads(data, name), name), _plain(data)
        return
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            where = f"{name}: line {number}"
            yield _resource(loads(line, where), where), _plain(line)


def _plain(data: bytes) -> bool:
    return b"modifierExtension" not in data and _ESCAPED_LETTER.search(data) is None


def _resource(found: Any, where: str) -> Json:
    if not isinstance(found, dict) or not isinstance(found.get("resourceType"), str):
        raise FactsError(f"{where}: not a FHIR resource: it has no resourceType")
    return found


def _unversioned(reference: str) -> str:
    return _HISTORY.sub("", reference) if "/_history/" in reference else reference


def _is_iri(text: str) -> bool:
    if _PLAIN_IRI.fullmatch(text):
        return True
    try:
        return _IRI.fullmatch(text) is not None and bool(ox.NamedNode(text))
    except ValueError:
        return False


@lru_cache(maxsize=1024)
def _is_server(base: str, kind: str) -> bool:
    """Whether an address is one that resources of a type can be below, whatever their id."""
    return base.startswith("http") and base.endswith("/") and _is_iri(f"{base}{kind}/1")


def later(one: str | None, other: str | None) -> bool | None:
    """Whether one time lies after another; None where they are the same, or one is not there or no time."""
    if one is None or other is None:
        return None
    try:
        a, b = seconds(one), seconds(other)
    except ValueError:
        return None
    return None if a == b else a > b


def patient_named(subject: Any) -> str | None:
    """The end of the address by which a subject names a patient, Patient/id, wherever that is; None where it has none."""
    reference = subject.get("reference") if isinstance(subject, dict) else None
    if not isinstance(reference, str) or reference.startswith("#"):
        return None
    tail = "/".join(_unversioned(reference).rsplit("/", 2)[-2:])
    return tail if tail.startswith("Patient/") and _RELATIVE.fullmatch(tail) else None


class Entry:
    """A resource in its place: the fullUrl of its entry, if any. plain: whether it is known to hold no modifierExtension.

    tail: Type/id. reference: how it is named to a person: its tail, or its fullUrl, or its type. iri: its fullUrl, else one made
    of its tail; None where it has neither. base: the address of the server that it is on, with a slash at the end, where its
    fullUrl tells it.
    """

    __slots__ = ("base", "full_url", "id", "iri", "kind", "plain", "reference", "resource", "tail")

    @property
    def updated(self) -> str | None:
        """When this version of the resource was made, where it says so."""
        meta = self.resource.get("meta")
        updated = meta.get("lastUpdated") if isinstance(meta, dict) else None
        return updated if isinstance(updated, str) else None

    def __init__(self, resource: Json, full_url: Any = None, plain: bool = False) -> None:
        self.resource, self.plain = resource, plain
        kind, identifier = resource.get("resourceType"), resource.get("id")
        self.kind = kind if isinstance(kind, str) else "Resource"
        self.id = identifier if isinstance(identifier, str) and _ID.fullmatch(identifier) else None
        self.tail = tail = f"{self.kind}/{self.id}" if self.id else None
        self.full_url = self.base = None
        if isinstance(full_url, str):
            if tail and full_url.endswith(tail) and _is_server(base := full_url[: -len(tail)], self.kind):
                self.full_url, self.base = full_url, base
            elif _is_iri(full_url):
                self.full_url = full_url
        self.reference = tail or self.full_url or self.kind
        self.iri = self.full_url or (f"{BASE}{tail}" if tail else None)


class Scope:
    """Resources that can refer to each other: those of a Bundle, or those that stand alone.

    owners: by the IRI of a resource without a fullUrl, that of its patient. Another scope may use the same ids for others.
    notes: what is not known of anybody in it.
    """

    def __init__(self, above: Scope | None = None) -> None:
        self.above = above
        self.owners: dict[str, str] = {}
        self.notes: list[Any] = []
        self.by_url: dict[str, Entry | None] = {}
        self.by_tail: dict[str, Entry | None] = {}
        self.torn: dict[str, list[Entry]] = {}
        self.by_identifier: dict[tuple[str, str], set[str]] = {}
        self._patients: dict[tuple[str, str | None], tuple[str, str] | str] = {}

    def add(self, entry: Entry) -> None:
        """Make a resource known. Two of one type and id at different addresses cannot be told apart by these alone; nor can
        versions that differ, where none of them is known to be the later one."""
        if self._patients:
            self.forget()
        for name, known in ((entry.full_url, self.by_url), (entry.tail, self.by_tail)):
            if name and (other := known.setdefault(name, entry)) is not entry:
                known[name] = self._latest(name, other, entry)
        if entry.kind == "Patient" and entry.iri and "identifier" in entry.resource:
            for identifier in (
                entry.resource.get("identifier") or () if isinstance(entry.resource.get("identifier"), list) else ()
            ):
                if isinstance(identifier, dict) and isinstance(identifier.get("value"), str):
                    key = (str(identifier.get("system", "")), identifier["value"])
                    self.by_identifier.setdefault(key, set()).add(entry.iri)

    def _latest(self, name: str, one: Entry | None, other: Entry) -> Entry | None:
        """The version that counts; None where they differ and which is the later one cannot be told. A patient stays the same."""
        if one is not None and one.full_url == other.full_url:
            if one.resource == other.resource or other.kind == "Patient":
                return other
            decided = later(other.updated, one.updated)
            if decided is not None:
                return other if decided else one
        self.torn.setdefault(name, []).extend(entry for entry in (one, other) if entry is not None)
        return None

    def versions(self, reference: str, origin: Entry) -> list[Json]:
        """The resources of which a reference may mean each, where which of them cannot be told."""
        reference = _unversioned(reference)
        names = (reference, (origin.base or "") + reference, "/".join(reference.rsplit("/", 2)[-2:]))
        found = next((self.torn[name] for name in names if name in self.torn), None)
        if found is None:
            return [] if self.above is None else self.above.versions(reference, origin)
        return [entry.resource for entry in found]

    def find(self, reference: str, origin: Entry) -> Entry | None:
        """The resource that a reference in a resource points at, if it is there and no other can be meant."""
        found = self._own(_unversioned(reference), origin)
        return found if found is not None or self.above is None else self.above.find(reference, origin)

    def settled(self, reference: str, origin: Entry) -> bool:
        """Whether a reference leads to a resource that nothing can change that is still to come: one of the same Bundle."""
        return reference.startswith("#") or (self.above is not None and self._own(_unversioned(reference), origin) is not None)

    def _own(self, reference: str, origin: Entry) -> Entry | None:
        found = self.by_url.get(reference)
        if found is None and _RELATIVE.fullmatch(reference):
            found = self.by_url.get((origin.base or "") + reference) or self.by_tail.get(reference)
        elif found is None and reference.startswith("http"):
            near = self.by_tail.get("/".join(reference.rsplit("/", 2)[-2:]))
            found = near if near is not None and near.full_url is None else None
        return found

    def key(self, reference: str, origin: Entry) -> str:
        """The IRI of the resource that a reference points at, whether it is there or not."""
        entry = self.find(reference, origin)
        if entry is not None and entry.iri:
            return entry.iri
        reference = _unversioned(reference)
        return (origin.base or BASE) + reference if _RELATIVE.fullmatch(reference) else reference

    def resolve(self, origin: Entry, reference: str) -> Json | None:
        """The resource that a reference points at, contained ones too."""
        if reference.startswith("#"):
            contained = origin.resource.get("contained")
            listed = contained if isinstance(contained, list) else []
            found = [c for c in listed if isinstance(c, dict) and c.get("id") == reference[1:]]
            return found[0] if len(found) == 1 else None
        entry = self.find(reference, origin)
        return entry.resource if entry is not None else None

    def forget(self) -> None:
        """Look up anew who is meant, where a scope above knows more by now."""
        self._patients.clear()

    def patient(self, subject: Any, origin: Entry) -> tuple[str, str] | str:
        """The IRI and the reference of the patient that a subject names; or, as one string, why there is none."""
        if not isinstance(subject, dict):
            return "it does not say whom it is about"
        reference = subject.get("reference")
        if not isinstance(reference, str):
            return self._identified(subject)
        key = (reference, origin.base)
        found = self._patients.get(key)
        if found is None:
            found = self._patients[key] = self._referred(reference, origin)
        return found

    def _referred(self, reference: str, origin: Entry) -> tuple[str, str] | str:
        if reference.startswith("#"):
            return "the patient it is about stands only inside it and cannot be told from others"
        entry = self.find(reference, origin)
        if entry is not None:
            if entry.kind != "Patient":
                return f"it is about a {entry.kind} and not about a patient"
            return (entry.iri, entry.reference) if entry.iri else "the patient it is about has neither id nor fullUrl"
        reference = _unversioned(reference)
        tail = "/".join(reference.rsplit("/", 2)[-2:])
        if not _RELATIVE.fullmatch(tail):
            return f"the patient it is about ({reference[:80]}) is not in the record"
        if not tail.startswith("Patient/"):
            return f"it is about a {tail.split('/')[0]} and not about a patient"
        if tail == reference:
            return (origin.base or BASE) + reference, tail
        return (reference, tail) if _is_iri(reference) else f"the patient it is about ({reference[:80]}) cannot be told"

    def _identified(self, subject: Json) -> tuple[str, str] | str:
        if not isinstance(subject.get("identifier"), dict) or not isinstance(subject["identifier"].get("value"), str):
            return "it does not say whom it is about in a way that can be followed"
        found = self.candidates(subject)
        if len(found) > 1:
            return "more than one patient has the identifier of the one it is about"
        return found[0] if found else "no patient in the record has the identifier of the one it is about"

    def candidates(self, subject: Any) -> list[tuple[str, str]]:
        """The IRI and the reference of each patient who has the identifier by which a subject names one."""
        identifier = subject.get("identifier") if isinstance(subject, dict) and "reference" not in subject else None
        if not isinstance(identifier, dict) or not isinstance(identifier.get("value"), str):
            return []
        key = (str(identifier.get("system", "")), identifier["value"])
        scope: Scope | None = self
        while scope is not None:
            if found := scope.by_identifier.get(key):
                return [(iri, "/".join(iri.rsplit("/", 2)[-2:])) for iri in sorted(found)]
            scope = scope.above
        return []


def named_at(subject: Any, origin: Entry) -> str | None:
    """The address of the server on which a subject, or the resource that has it, says that its patient is, with a slash at the
    end; None where neither says it."""
    reference = subject.get("reference") if isinstance(subject, dict) else None
    tail = patient_named(subject)
    if not isinstance(reference, str) or tail is None:
        return None
    return _unversioned(reference).removesuffix(tail) or origin.base

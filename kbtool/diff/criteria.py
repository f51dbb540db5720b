"""Compare two definitions of a criterion: do they mean the same, and if not, line by line in words, what is different."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from decimal import Decimal

from kbtool.criteria import Both, Either, Expression, Named, OneOf, Range, Some
from kbtool.namespaces import CG
from kbtool.words import Words, is_unit, manchester

_PATIENT = Named(CG["Patient"].value)
_OPPOSITE = {
    "minInclusive": "maxExclusive",
    "minExclusive": "maxInclusive",
    "maxInclusive": "minExclusive",
    "maxExclusive": "minInclusive",
}
_CONTEXT = 3
"""How many lines that stay are shown around lines that change."""


def same_meaning(old: Expression, new: Expression, before: Words, after: Words) -> bool:
    """Whether two definitions say the same once named conditions are replaced by what they mean, on each side its own.

    A number that is changed in a range of which both sides have the name is a change of that range, and not of what uses it.
    """
    shared = _ranges(before) & _ranges(after)
    return any(
        settled(_spelt_out(old, before, names)) == settled(_spelt_out(new, after, names)) for names in (frozenset[str](), shared)
    )


def settled(expression: Expression) -> Expression:
    """One form for all expressions that differ only in order, nesting, repetition, and how a limit is written."""
    match expression:
        case Both(parts):
            return _joined(Both, (settled(part) for part in parts))
        case Either(parts):
            return _joined(Either, (settled(part) for part in parts))
        case OneOf(iris):
            return _joined(Either, map(Named, iris))
        case Some(prop, filler):
            inner = settled(filler)
            return _joined(Either, (Some(prop, part) for part in inner.parts)) if isinstance(inner, Either) else Some(prop, inner)
        case Range(prop, limits, complement) if limits:
            opened = ((_OPPOSITE[facet] if complement else facet, _plain(number)) for facet, number in limits)
            return _joined(Either if complement else Both, (Range(prop, (limit,), False, "") for limit in opened))
    return expression


def aligned(old: Expression, new: Expression, before: Words, after: Words) -> tuple[str, ...]:
    """Both definitions in words, one condition a line: what stays begins with two spaces, what goes with -, what comes with +."""
    gone, come = (list(outline(settled(each), words)) for each, words in ((old, before), (new, after)))
    if gone == come:
        prefixes = before.knowledge.prefixes | after.knowledge.prefixes
        gone, come = ([manchester(settled(each), prefixes)] for each in (old, new))
    marked = [line for line in difflib.ndiff(gone, come) if not line.startswith("?")]
    return tuple(_shortened(marked))


def outline(expression: Expression, words: Words, unit: str = "", indent: str = "") -> Iterator[str]:
    """A definition in words, one condition a line, one level deep: conditions that have a name are named."""
    match expression:
        case Both(parts):
            unit = words.unit(parts) or unit
            has_number = any(isinstance(part, Range) for each in parts for part in _walk(each))
            shown = [part for part in parts if part != _PATIENT and not (is_unit(part) and has_number)]
            for lines in sorted(list(outline(part, words, unit, indent)) for part in shown or parts):
                yield from lines
        case Either(parts):
            yield f"{indent}any of:"
            for lines in sorted(list(_grouped(part, words, unit, f"{indent}  ")) for part in parts):
                yield from lines
        case Some(prop, Both() as filler):
            yield f"{indent}{words.label(prop)}, with all of:"
            yield from outline(filler, words, "", f"{indent}  ")
        case _:
            yield indent + words.say(expression, unit)


def _grouped(part: Expression, words: Words, unit: str, indent: str) -> Iterator[str]:
    """A member of a union; conditions that belong together stand under a line of their own."""
    lines = list(outline(part, words, unit, indent))
    if isinstance(part, Both) and len(lines) > 1:
        yield f"{indent}all of:"
        yield from (f"  {line}" for line in lines)
    else:
        yield from lines


def _joined(kind: type[Both] | type[Either], parts: Iterable[Expression]) -> Expression:
    flat = [inner for part in parts for inner in (part.parts if isinstance(part, kind) else (part,))]
    kept = sorted(set(flat), key=repr)
    return kept[0] if len(kept) == 1 else kind(tuple(kept))


def _spelt_out(expression: Expression, words: Words, kept: frozenset[str]) -> Expression:
    """An expression in which named conditions are replaced by their definitions, and named ranges by their limits; but not
    the ranges in `kept`, and no condition that is false where nothing is recorded, which its name alone tells."""
    match expression:
        case Named(iri):
            criterion = words.criteria.get(iri)
            closed = criterion is None or criterion.closed_world
            return expression if criterion is None or closed else _spelt_out(criterion.expression, words, kept)
        case Both(parts):
            inner = [_spelt_out(part, words, kept) for part in parts]
            flat = [each for part in inner for each in (part.parts if isinstance(part, Both) else (part,))]
            return Both(tuple(part for part in flat if part != _PATIENT) or tuple(flat))
        case Either(parts):
            return Either(tuple(_spelt_out(part, words, kept) for part in parts))
        case Some(prop, filler):
            return Some(prop, _spelt_out(filler, words, kept))
        case Range(prop, _, complement, datatype) if datatype in kept:
            return Range(prop, (), complement, datatype)
    return expression


def _ranges(words: Words) -> frozenset[str]:
    """The named ranges that definitions use."""
    found = (part for criterion in words.criteria.values() for part in _walk(criterion.expression))
    return frozenset(part.datatype for part in found if isinstance(part, Range) and part.datatype)


def _walk(expression: Expression) -> Iterator[Expression]:
    yield expression
    match expression:
        case Both(parts) | Either(parts):
            for part in parts:
                yield from _walk(part)
        case Some(_, filler):
            yield from _walk(filler)


def _plain(number: str) -> str:
    return format(Decimal(number).normalize(), "f")


def _shortened(lines: list[str]) -> Iterator[str]:
    changed = [place for place, line in enumerate(lines) if not line.startswith("  ")]
    left_out = False
    for place, line in enumerate(lines):
        if any(abs(place - other) <= _CONTEXT for other in changed):
            yield line
            left_out = False
        elif not left_out:
            yield "  ..."
            left_out = True

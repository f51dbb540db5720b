"""Units of measure: is a UCUM unit valid, and how does one unit become another, of the same substance where one is needed?

Stands on ucumvert (UCUM) with Pint, and on molmass for molar masses. What they do not know of UCUM is added: an equivalent
is a mole divided by a charge, and arbitrary units such as [iU] can be compared with nothing but themselves.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from kbtool.checks.model import CannotCheckError

MASS, MOLE, EQUIVALENT = "gram", "mole", "eq"
_AMOUNTS = (MASS, MOLE, EQUIVALENT)
_ESSENCE = "{http://unitsofmeasure.org/ucum-essence}unit"


class ConversionError(ValueError):
    """One unit cannot become another. The message says why."""


class SubstanceError(ConversionError):
    """One unit can become another only with a molar mass or a charge. The message says which."""


@dataclass(frozen=True)
class Substance:
    """What is measured: its molar mass in g/mol and its charge, without sign, where they are known."""

    molar_mass: float | None = None
    charge: int | None = None


@dataclass(frozen=True)
class Measure:
    """A unit in terms of root units: a value v is v x scale + zero, of the dimension that the exponents make."""

    scale: float
    zero: float
    exponents: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Conversion:
    """How a value becomes another unit: (value + offset) x factor. by_mass, by_charge: what of a substance that rests on."""

    factor: float
    offset: float = 0.0
    by_mass: bool = False
    by_charge: bool = False


class Units:
    """The units of UCUM. Raises CannotCheckError where the libraries are not installed."""

    def __init__(self) -> None:
        try:
            import lark
            import molmass
            import pint
            import ucumvert
        except ImportError as error:
            raise CannotCheckError(f"units need {error.name}, which is not installed: pip install 'kbtool[check]'") from error
        self._parse: Any = cache(ucumvert.parse_ucum)
        self._registry: Any = ucumvert.PintUcumRegistry()
        self._formula: Any = molmass.Formula
        self._invalid = ucumvert.InvalidUcumError
        self._unknown = (lark.exceptions.LarkError, pint.PintError, ArithmeticError)
        essence = ElementTree.parse(str(files("ucumvert") / "vendor" / "ucum-essence.xml"))
        self._apart = {unit.attrib["Code"] for unit in essence.iter(_ESSENCE) if unit.get("isArbitrary") == "yes"} | {EQUIVALENT}
        self.measure = cache(self._measure)

    def fault(self, unit: str) -> str | None:
        """Why a unit is not valid UCUM, in its case-sensitive form, or None."""
        try:
            self._parse(unit)
        except self._invalid as error:
            return str(error).splitlines()[0].split(": ", 1)[-1].rstrip(".")
        return None

    def molar_mass(self, formula: str) -> float:
        """The molar mass of a chemical formula in g/mol. Raises ValueError for one that cannot be read."""
        mass = float(self._formula(formula).mass)
        if mass <= 0:
            raise ValueError("it names no element")
        return mass

    def conversion(self, unit: str, into: str, substance: Substance | None = None) -> Conversion:
        """How a value in one unit becomes another unit. Raises ConversionError or SubstanceError."""
        given, wanted = self.measure(unit), self.measure(into)
        if given is None or wanted is None:
            if unit == into:
                return Conversion(1.0)
            raise ConversionError("the unit library does not know how to convert it")
        powers = _times(dict(given.exponents), dict(wanted.exponents), -1)
        factor = given.scale / wanted.scale
        if not powers:
            return Conversion(factor, (given.zero - wanted.zero) / given.scale)
        if set(powers) - set(_AMOUNTS) or sum(powers.values()):
            raise ConversionError("the two measure different things")
        substance = substance or Substance()
        if MASS in powers:
            if substance.molar_mass is None:
                raise SubstanceError("molar mass")
            factor *= substance.molar_mass ** -powers[MASS]
        if EQUIVALENT in powers:
            if substance.charge is None:
                raise SubstanceError("charge")
            factor *= substance.charge ** -powers[EQUIVALENT]
        return Conversion(factor, by_mass=MASS in powers, by_charge=EQUIVALENT in powers)

    def same_kind(self, unit: str, other: str) -> bool:
        """Whether two units measure the same kind of quantity; moles and equivalents are one kind here."""
        first, second = self.measure(unit), self.measure(other)
        return first is not None and second is not None and _kind(first) == _kind(second)

    def ratio(self, numerator: str, denominator: str, into: str) -> float:
        """The number by which a quotient of two units becomes a third unit. Raises ConversionError."""
        over, under, result = self.measure(numerator), self.measure(denominator), self.measure(into)
        if over is None or under is None or result is None:
            raise ConversionError("the unit library does not know how to convert it")
        if _times(_times(dict(over.exponents), dict(under.exponents), -1), dict(result.exponents), -1):
            raise ConversionError("the quotient measures something else")
        return over.scale / under.scale / result.scale

    def _measure(self, unit: str) -> Measure | None:
        """A unit in root units, or None where the library does not know it or it is not valid."""
        try:
            tree = self._parse(unit)
            given = self._registry.from_ucum(unit)
            if not hasattr(given, "unit_items"):  # an annotation alone, such as {score}, stands for the number 1
                return Measure(1.0, 0.0, ())
            root = given.to_root_units()
            zero = self._registry.Quantity(0, given.units).to_root_units().magnitude
            apart = {self._base(self._registry.from_ucum(atom)): atom for atom in self._atoms(tree)}
        except self._unknown:
            return None
        exponents = {str(name): float(power) for name, power in root.unit_items()}
        for name, power in given.unit_items():
            atom = apart.get(self._base_name(str(name)))
            if atom is not None:
                exponents = _times(exponents, {atom: power, **({MOLE: -power} if atom == EQUIVALENT else {})})
        return Measure(float(root.magnitude - zero), float(zero), tuple(sorted(exponents.items())))

    def _atoms(self, tree: Any) -> set[str]:
        """The units in a parsed unit that are kept apart."""
        tokens = tree.scan_values(lambda _: True) if hasattr(tree, "scan_values") else [tree]
        return {str(token) for token in tokens} & self._apart

    def _base(self, quantity: Any) -> str:
        return self._base_name(str(next(iter(quantity.unit_items()))[0]))

    def _base_name(self, name: str) -> str:
        """The name of a unit without its prefix."""
        return str(self._registry.parse_unit_name(name)[0][1])


def _kind(measure: Measure) -> dict[str, float]:
    exponents = dict(measure.exponents)
    return _times(exponents, {MOLE: exponents.pop(EQUIVALENT, 0.0)})


def _times(exponents: dict[str, float], others: dict[str, float], sign: int = 1) -> dict[str, float]:
    """The exponents of a product, or of a quotient with the sign -1; those that are zero are left out."""
    names = [*exponents, *(name for name in others if name not in exponents)]
    powers = {name: exponents.get(name, 0.0) + sign * others.get(name, 0.0) for name in names}
    return {name: power for name, power in powers.items() if power}

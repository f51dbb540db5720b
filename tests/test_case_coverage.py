"""No cell of the table rule by truth and status that a patient can reach is without a golden case."""

from __future__ import annotations

import pytest
from coverage_of_cases import Row, lines, reasons, rows
from golden import cases

import kbtool


@pytest.fixture(scope="module")
def knowledge() -> kbtool.knowledge.Knowledge:
    return kbtool.load().knowledge


@pytest.fixture(scope="module")
def table(knowledge: kbtool.knowledge.Knowledge) -> list[Row]:
    return rows(knowledge)


def test_no_cell_that_can_be_reached_is_empty(table: list[Row]) -> None:
    assert [f"{row.rule}: {cell}" for row in table for cell in row.empty] == []


def test_no_cell_is_called_unreachable_that_a_case_reaches(table: list[Row]) -> None:
    assert [f"{row.rule}: {cell}" for row in table for cell in row.refuted] == []


def test_reasons_name_rules_and_cells_that_there_are(table: list[Row]) -> None:
    cells = {row.rule: row.cells for row in table}
    assert [(rule, cell) for rule, given in reasons().items() for cell in given if cell not in cells.get(rule, {})] == []
    assert all(len(reason.split()) > 5 for given in reasons().values() for reason in given.values())


def test_the_table_shows_every_rule(table: list[Row], knowledge: kbtool.knowledge.Knowledge) -> None:
    text = "\n".join(lines(table))
    assert len(table) > 70
    assert all(row.rule in text for row in table)
    assert "!" not in text


def test_a_case_that_is_taken_away_leaves_an_empty_cell(knowledge: kbtool.knowledge.Knowledge, table: list[Row]) -> None:
    alone = {names[0] for row in table for names in row.cells.values() if len(names) == 1}
    assert alone
    one = sorted(alone)[0]
    smaller = rows(knowledge, [name for name in cases() if name != one])
    assert [cell for row in smaller for cell in row.empty] != []
    assert "!" in "\n".join(lines(smaller))

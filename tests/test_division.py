"""Dividing triples by patient: at once it comes out as one by one, and what belongs to nobody is told."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

import kbtool
from kbtool.division import divided, divided_at_once
from kbtool.facts import Reader
from kbtool.namespaces import CG, RDF
from kbtool.rows import Row, Table, plain_table

TYPE, PATIENT, FINDING = str(RDF["type"]), str(CG["Patient"]), str(CG["hasFinding"])
KIND = "<https://w3id.org/kbtool/dialysis/Twitch>"
FOREIGN = "<https://example.org/of>"


@pytest.fixture(scope="session")
def kb() -> kbtool.KnowledgeBase:
    return kbtool.load()


def node(name: object) -> str:
    return f"<urn:x:{name}>"


def table(rows: list[Row]) -> Table:
    found = plain_table("".join(" ".join(row) + " .\n" for row in rows))
    assert found is not None
    return found


def graphs() -> Iterator[list[Row]]:
    """Random graphs: mostly each patient alone, some with shared nodes, circles, links between patients, vocabulary terms as
    subjects, triples that come twice, nodes of nobody."""
    chance = random.Random(12)  # noqa: S311
    for number in range(400):
        people, size = chance.randint(0, 5), chance.randint(1, 12)
        nodes = [node(n) for n in range(size)]
        owner = {fact: chance.randrange(people + 1) for fact in nodes}
        rows: list[Row] = []
        for one in range(people):
            rows += [(node(f"p{one}"), TYPE, PATIENT)] * (chance.random() < 0.95)
        for _ in range(chance.randint(0, 40)):
            start = chance.choice([*nodes, *(node(f"p{n}") for n in range(people)), KIND])
            mine = owner.get(start, int(start[8:-1]) if start.startswith("<urn:x:p") else people)
            near = [fact for fact in nodes if owner[fact] == mine] or nodes
            targets = [*near, *near, *near, KIND, node(f"p{chance.randrange(9)}"), '"text"']
            targets += nodes if number % 3 == 0 else []
            rows.append((start, chance.choice([FINDING, FINDING, FOREIGN, TYPE]), chance.choice(targets)))
        rows += chance.sample(rows, len(rows) // 4)
        chance.shuffle(rows)
        yield rows


def test_at_once_it_is_divided_as_one_by_one(kb: kbtool.KnowledgeBase) -> None:
    vocabulary = kb.knowledge.graph
    alone = shared = stray = 0
    for rows in graphs():
        if not rows:
            continue
        groups, lost = divided(rows, vocabulary)
        at_once = divided_at_once(table(rows), vocabulary)
        assert (at_once is None) == any(len(group) > 1 for group in groups)
        shared += at_once is None
        if at_once is None:
            continue
        parts, its_lost = at_once
        wanted = {patient: sorted(mine) for group in groups for patient, mine in group}
        assert {patient: sorted(part.rows()) for patient, part in parts} == wanted
        assert [patient for patient, _ in parts] == [patient for group in groups for patient, _ in group]
        assert its_lost == lost
        assert set(lost[0]) <= set(lost[1])
        assert bool(lost[0]) == bool(lost[1])
        alone += len(parts) > 1
        stray += len(lost[1]) > len(lost[0]) > 0
    assert min(alone, shared, stray) > 20


@pytest.mark.parametrize("at_once", [False, True])
def test_of_what_belongs_to_nobody_something_is_always_told(kb: kbtool.KnowledgeBase, at_once: bool) -> None:
    def told(*rows: Row) -> tuple[list[str], list[str]]:
        if not at_once:
            return divided(rows, kb.knowledge.graph)[1]
        found = divided_at_once(table(list(rows)), kb.knowledge.graph)
        assert found is not None
        return found[1]

    s, t, u, v = map(node, "stuv")
    kinds = [(n, TYPE, KIND) for n in (s, t, u, v)]
    assert told(*kinds[:2], (t, FINDING, s), (s, FOREIGN, t)) == ([s], [s, t])  # a circle of two
    assert told(*kinds[:2], (t, FINDING, s)) == ([t], [s, t])
    assert told(*kinds[:1], (s, FINDING, s)) == ([s], [s])
    circle = [(s, FINDING, t), (t, FINDING, u), (u, FINDING, s)]
    assert told(*kinds[:3], *circle) == ([s], [s, t, u])
    assert told(*kinds, *circle, (v, FINDING, t)) == ([v], [s, t, u, v])  # the circle is reached from outside
    assert told(*kinds, *circle, (s, FINDING, v)) == ([s], [s, t, u, v])
    assert told((s, TYPE, KIND), (KIND, str(CG["unit"]), '"g"')) == (sorted((s, KIND)), sorted((s, KIND)))


def test_facts_hold_all_that_belongs_to_nobody(kb: kbtool.KnowledgeBase) -> None:
    text = f"{node('t')} {TYPE} {KIND} .\n{node('t')} {FINDING} {node('s')} .\n{node('s')} {TYPE} {KIND} .\n"
    for more in ("", f"_:b {FOREIGN} _:b .\n# so that it is read in another way\n"):
        reader = Reader()
        reader.add("in.nt", (text + more).encode())
        facts = reader.facts(kb.knowledge.graph)
        assert (facts.strays, facts.lost) == ([node("t")], [node("s"), node("t")])


def test_long_chains_are_left_to_the_other_way(kb: kbtool.KnowledgeBase) -> None:
    def chain(length: int) -> list[Row]:
        links = [(node(n), FINDING, node(n + 1)) for n in range(length)]
        return [(node(0), TYPE, PATIENT), *links]

    short = divided_at_once(table(chain(60)), kb.knowledge.graph)
    assert short is not None
    assert len(short[0][0][1].rows()) == 61
    assert divided_at_once(table(chain(70)), kb.knowledge.graph) is None
    ((_, mine),) = divided(chain(70), kb.knowledge.graph)[0][0]
    assert len(mine) == 71

"""The files for machines: every board in every format, the JSON interface, badges, the feed and the history."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from leaderboard import api, api_words, badges, formats, parity
from leaderboard.api import FOLDER
from leaderboard.arithmetic import Spent
from leaderboard.changes import Log, feed
from leaderboard.offers import ENDINGS, bibtex, identity, ways
from leaderboard.parity_pages import tables
from leaderboard.reported import newest
from leaderboard.seeds import Group
from leaderboard.shell import File, Site, slug
from leaderboard.words import name_of, natural

if TYPE_CHECKING:
    from bench import Record
    from leaderboard.arithmetic import Number
    from leaderboard.rows import Row, Section
    from leaderboard.seeds import Spread
    from leaderboard.trust import Finding
    from leaderboard.views import Line

NAV = ("For machines", "machines.html")


def pages(site: Site) -> Iterator[File]:
    """Every file for machines, and the page that lists them."""
    log = Log(site)
    for _, section, lines in site.views:
        yield from _board(site, section, lines)
    yield from _badges(site)
    yield from _api(site, log)
    yield File("changes.atom", feed(site, log))
    yield site.render(
        "machines.html", "machines.html", title="For machines", ways=ways, endings=ENDINGS, log=log, api=FOLDER,
        kinds=list(api.DOCUMENTS), example=next(iter(_example(site)), ""),
    )  # fmt: skip


def badge_of(section: Section, row: Row) -> str:
    """Where the badge of a row lies."""
    made = row.maker
    where = (section.test, section.threat or "", section.condition)
    return (
        f"badges/{slug(made.defense, *where, row.net_key, row.weights, made.defense, str(made.seed), made.which)}.svg"
    )


def _example(site: Site) -> Iterator[str]:
    for section in site.board.sections:
        for row in section.rows:
            yield badge_of(section, row)


def _board(site: Site, section: Section, lines: Sequence[Line]) -> Iterator[File]:
    found, places = ways(site, section), [line.place for line in lines]
    yield File(found["csv"], formats.as_csv(section, places).encode())
    yield File(found["md"], formats.as_markdown(section, places).encode())
    yield File(found["tex"], formats.as_latex(section, places).encode())
    yield File(found["bib"], bibtex(site, section).encode())


def _badges(site: Site) -> Iterator[File]:
    for section in site.board.sections:
        for row in section.rows:
            yield File(badge_of(section, row), badges.badge(section, row).encode())


def _api(site: Site, log: Log) -> Iterator[File]:
    board, sections = site.board, [section for _, section, _ in site.views]
    documents = {name: f"{FOLDER}/{name}.json" for name in ("boards", "models", "attacks", "history", "reported")}
    for _, section, lines in site.views:
        yield File(ways(site, section)["json"], api.written(_board_document(site, section, lines)))
    entries = [_board_entry(site, section) for section in sections]
    yield File(documents["boards"], api.written(api.BoardsDocument("rampart/api-boards-1", entries)))
    yield from _models(site, documents["models"])
    yield File(documents["attacks"], api.written(_attacks(site.documents.records)))
    yield File(documents["history"], api.written(_history(site, log)))
    yield File(documents["reported"], api.written(_reported(site)))
    compared = {}
    for found in tables(site):
        name = f"{found.paper.name}-{found.table.name}"
        compared[name] = f"{FOLDER}/parity/{name}.json"
        facts = {"schema": "rampart/api-parity-1", **parity.plain(found)}
        yield File(compared[name], api.written(api.read("parity", facts)))
    schemas = {}
    for name, content in api.schemas().items():
        schemas[name] = f"{FOLDER}/schema/{name}.schema.json"
        yield File(schemas[name], content)
    index = api.IndexDocument(
        "rampart/api-1", api.VERSION, site.as_of or None, board.records, board.trainings, list(board.made or ()),
        list(board.commits), {package: list(versions) for package, versions in board.versions},
        documents, compared, schemas,
    )  # fmt: skip
    yield File(f"{FOLDER}/index.json", api.written(index))


def _board_entry(site: Site, section: Section) -> api.BoardEntry:
    found = ways(site, section)
    return api.BoardEntry(
        identity(site, section), section.dataset, section.test, section.threat, section.condition, len(section.rows),
        section.n, [h.name for h in section.heads], site.board_of(section), found["json"], found["csv"], found["md"],
        found["tex"], found["bib"],
    )  # fmt: skip


def _board_document(site: Site, section: Section, lines: Sequence[Line]) -> api.BoardDocument:
    ranked = {id(line.line): list(line.rank) for line in lines if line.rank}
    return api.BoardDocument(
        "rampart/api-board-1", identity(site, section), section.dataset, section.test, section.threat,
        section.condition, section.n, section.available,
        [api.ColumnOf(h.name, list(h.of), h.strict, h.first) for h in section.heads], section.summary or None,
        [_row(site, section, row, ranked.get(id(row))) for row in section.rows],
        [_group(line, ranked.get(id(line))) for line in section.lines if isinstance(line, Group)],
    )  # fmt: skip


def _row(site: Site, section: Section, row: Row, rank: list[int] | None) -> api.RowOf:
    made, t = row.maker, row.maker.training
    return api.RowOf(
        made.defense, row.net, row.net_key, row.weights, made.which or None, made.seed, t.key if t else None,
        (t.threat or None) if t else None, t.dataset if t else None, t.parameters if t else None,
        t.macs if t else None, t.cost.seconds if t else None, row.division,
        row.tier, rank,
        {name: _result(x) for name, x in row.numbers.items()}, _result(row.summary) if row.summary else None,
        _cost(row.spent), [api.Doubted(d.text, list(d.attacks)) for d in row.doubts], list(row.notes),
        f"{FOLDER}/models/{_model_id(site, row.net_key, row.weights)}.json", badge_of(section, row),
        row.trusted, list(row.trust.reasons), _result(row.trust.before) if row.trust.before else None,
        row.trust.honesty,
    )  # fmt: skip


def _group(group: Group, rank: list[int] | None) -> api.GroupOf:
    first = group.rows[0]
    return api.GroupOf(
        group.maker.defense, first.net, first.net_key, group.which, list(group.seeds),
        [row.weights for row in group.rows], rank, {name: _several(x) for name, x in group.numbers.items()},
        _several(group.summary) if group.summary else None, group.trusted,
        _several(group.before) if group.before else None,
    )  # fmt: skip


def _result(x: Number) -> api.Result:
    low, high = x.interval
    return api.Result(
        x.accuracy, low, high, x.standing, x.n, x.conditions, x.bound, x.partial, _cost(x.spent), dict(x.seeds),
        x.certified,
    )  # fmt: skip


def _finding(x: Finding) -> api_words.FindingOf:
    return api_words.FindingOf(x.code, x.text, x.state, x.asked or None, x.what, list(x.images), dict(x.figures))


def _several(x: Spread) -> api.Several:
    return api.Several(x.accuracy, x.sd, x.seeds, x.decided, x.bound, x.n, x.most)


def _cost(spent: Spent) -> api.Cost:
    return api.Cost(spent.forwards, spent.backwards, spent.seconds)


def _model_id(site: Site, net: str, weights: str) -> str:
    return slug(site.labels.get((net, weights), ""), net, weights)


def _models(site: Site, path: str) -> Iterator[File]:
    """Every model that stands on a board, and their list."""
    rows: dict[tuple[str, str], list[tuple[Section, Row]]] = {}
    for _, section, _ in site.views:
        for row in section.rows:
            rows.setdefault((row.net_key, row.weights), []).append((section, row))
    made: dict[tuple[str, str], list[api.TrainingOf]] = {}
    for t in site.documents.trainings:
        for weights in sorted(set(t.weights.values())):
            which = sorted(name for name, w in t.weights.items() if w == weights)
            made.setdefault((t.net, weights), []).append(
                api.TrainingOf(
                    t.key, t.label, t.defense, t.net_label, t.dataset, t.threat, t.seed, which, t.cost.seconds, t.made
                )
            )
    entries = []
    for (net, weights), found in sorted(rows.items()):
        name = _model_id(site, net, weights)
        trainings = sorted(made.get((net, weights), []), key=lambda t: (t.key, t.made, t.which))
        boards = {
            identity(site, section): (section, row) for section, row in found
        }  # a row for each maker says the same
        document = api.ModelDocument(
            "rampart/api-model-1", name, found[0][1].net, net, weights, trainings,
            [
                api.OnBoard(
                    board, {head: _result(x) for head, x in row.numbers.items()},
                    _result(row.summary) if row.summary else None,
                    [api.Doubted(d.text, list(d.attacks)) for d in row.doubts], row.division, row.trusted,
                    list(map(_finding, row.trust.findings)), [api_words.RuleOf(**vars(rule)) for rule in row.rules],
                    _result(row.trust.before) if row.trust.before else None, row.trust.honesty,
                )
                for board, (_, row) in boards.items()
            ],
        )  # fmt: skip
        yield File(f"{FOLDER}/models/{name}.json", api.written(document))
        defenses = sorted({row.maker.defense for _, row in found}, key=natural)
        entries.append(
            api.ModelEntry(name, defenses, found[0][1].net, weights, list(boards), f"{FOLDER}/models/{name}.json")
        )
    yield File(path, api.written(api.ModelsDocument("rampart/api-models-1", entries)))


def _attacks(records: tuple[Record, ...]) -> api.AttacksDocument:
    asked: dict[str, list[Record]] = {}
    for record in records:
        asked.setdefault(record.attack, []).append(record)
    entries = [
        api.AttackEntry(
            attack, name_of(attack), next((r.access for r in found if r.access), None), len(found),
            len({(r.net, r.weights) for r in found}), sum(len(r.asked) for r in found),
            sum(len(r.fell) for r in found), _cost(Spent.of(found)),
        )
        for attack, found in sorted(asked.items(), key=lambda item: natural(item[0]))
    ]  # fmt: skip
    return api.AttacksDocument("rampart/api-attacks-1", entries)


def _history(site: Site, log: Log) -> api.HistoryDocument:
    boards: dict[str, list[str]] = {}
    for change in log.changes:
        boards.setdefault(change.day, []).append(identity(site, change.section))
    days = [api.Day(d, log.records.get(d, 0), log.trainings.get(d, 0), boards.get(d, [])) for d in log.days]
    return api.HistoryDocument("rampart/api-history-1", days, log.undated)


def _reported(site: Site) -> api.ReportedDocument:
    boards = [
        api.ReportedBoard(card.board, card.made, "reported", [api.ReportedOf(**dict(m)) for m in card.models])
        for card in newest(site.documents)
    ]
    return api.ReportedDocument("rampart/api-reported-1", boards)

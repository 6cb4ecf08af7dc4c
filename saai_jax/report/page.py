"""The HTML of a report: one file that asks for nothing else, usable by keyboard, by screen reader, without scripts."""

from __future__ import annotations

import base64
import hashlib
import html
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from saai_jax.ranking.results import METRICS

HERE = Path(__file__).parent
HEADINGS = {
    "rank1": "rank-1",
    "rank5": "rank-5",
    "rank10": "rank-10",
    "rank20": "rank-20",
    "map": "mAP",
    "minp": "mINP",
}
MARKS = {"right": "✓ same person", "wrong": "✗ another person", "skipped": "– skipped by the protocol"}


class Html(str):
    """What is markup already. Every other text is escaped where `tag` puts it in."""


class Picture(NamedTuple):
    """An image of the data set: what it is called, who it shows, and a JPEG, None where there are only features."""

    path: str
    words: str
    jpeg: bytes | None


class Chart(NamedTuple):
    """name: of the files in figures/; alt: what the chart shows, for who does not see it."""

    name: str
    svg: str
    alt: str
    caption: str


class Result(NamedTuple):
    """kind: right, wrong or skipped. rank: among what the protocol does not skip, 0 for what it does."""

    picture: Picture
    kind: str
    rank: int
    lines: Sequence[str]


class Moved(NamedTuple):
    """One result of AIM: its place by cosine, how far it was moved, and the gallery images that moved it most."""

    result: Result
    plain: str
    correction: str
    by: Sequence[tuple[Picture, str]]


class Method(NamedTuple):
    name: str
    about: str
    results: Sequence[Result]
    moved: Sequence[Moved]


class Query(NamedTuple):
    picture: Picture
    methods: Sequence[Method]


class Section(NamedTuple):
    name: str
    heading: str
    content: Sequence[Html]


def tag(name: str, /, *children: str, **attributes: Any) -> Html:
    """An element. Children that are not Html are escaped, and so are values; class_ is class, aria_label aria-label."""
    named = ((key.strip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None)
    start = "".join(f' {key}="{html.escape(str(value))}"' for key, value in named)
    inside = "".join(child if isinstance(child, Html) else html.escape(str(child)) for child in children)
    return Html(f"<{name}{start}>" if name in ("img", "meta") else f"<{name}{start}>{inside}</{name}>")


def soft(text: str) -> Html:
    return tag("span", text, class_="soft")


def document(title: str, lead: Sequence[Html], sections: Sequence[Section]) -> str:
    """The whole page. Its policy lets a browser load nothing but what is inside the file."""
    style, script = ((HERE / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    policy = f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Html(style)),
    )
    links = (tag("li", tag("a", s.heading, href=f"#{s.name}")) for s in sections)
    body = tag(
        "body",
        tag("a", "Skip to the results", href=f"#{sections[0].name}", class_="skip"),
        tag("header", tag("h1", title), *lead, tag("nav", tag("ul", *links), aria_label="Sections")),
        tag("main", *(tag("section", tag("h2", s.heading, id=s.name), *s.content) for s in sections)),
        tag("script", Html(script)),
    )
    return "<!doctype html>\n" + tag("html", head, body, lang="en") + "\n"


def results_table(rows: Sequence[Mapping[str, Any]]) -> Html:
    """Rows as `results.row` makes them, grouped by setting, with the intervals that they have."""
    columns = ("inference", "trials", "queries", "gallery", *(f"{HEADINGS[metric]} (%)" for metric in METRICS))
    first = (tag("th", name, scope="col", class_=None if i else "first") for i, name in enumerate(columns))
    groups = []
    for setting, members in itertools.groupby(rows, key=setting_of):
        title = tag("th", tag("span", setting, class_="pin"), scope="rowgroup", colspan=len(columns))
        groups.append(tag("tbody", tag("tr", title), *map(_line, members)))
    words = "Percent, means over the trials; below a mean the standard deviation over them (±)"
    if any(row.get("interval") for row in rows):
        words += ", and 95 % intervals over queries (q) and over identities (id), which are the independent ones"
    table = tag(
        "table", tag("caption", tag("span", words + ".", class_="pin")), tag("thead", tag("tr", *first)), *groups
    )
    return tag("div", table, class_="scroll", tabindex=0, role="region", aria_label="Results table")


def setting_of(row: Mapping[str, Any]) -> str:
    """What a row's queries and galleries are, in words."""
    labels = (row["dataset"], row["protocol"], row["direction"], f"{row['shots']} shot" if row["shots"] else "")
    return " · ".join(str(label) for label in labels if label)


def charts(items: Sequence[Chart]) -> Html:
    """Charts beside one another where there is room."""

    def figure(chart: Chart) -> Html:
        image = tag("img", src=_data("image/svg+xml", chart.svg.encode()), alt=chart.alt)
        files = soft(f" Files: figures/{chart.name}.png, figures/{chart.name}.svg")
        return tag("figure", image, tag("figcaption", chart.caption, files))

    return tag("div", *map(figure, items), class_="charts")


def ranked(queries: Sequence[Query]) -> list[Html]:
    """Every query with its first results, a section for each method: tabs where scripts run."""
    return [_query(number, query) for number, query in enumerate(queries, 1)]


def prototype_maps(people: Sequence[tuple[Picture, Sequence[tuple[bytes, str]]]]) -> list[Html]:
    """Each person's picture and, for every part, where the prototype looks in it, with a caption."""
    made = []
    for picture, parts in people:
        items = [tag("li", tag("figure", image(picture), tag("figcaption", "picture")))]
        for jpeg, caption in parts:
            shown = tag("img", src=_data("image/jpeg", jpeg), alt=f"attention of {caption}", class_="picture")
            items.append(tag("li", tag("figure", shown, tag("figcaption", caption))))
        made += [tag("h3", picture.words), tag("ul", *items, class_="maps")]
    return made


def image(picture: Picture, said: str = "") -> Html:
    """The picture, or a box with its path; `said` comes first in what a screen reader says."""
    if picture.jpeg is None:
        return tag("div", tag("bdi", picture.path), class_="picture noted")
    alt = ", ".join(filter(None, (said, picture.words, picture.path)))
    return tag("img", src=_data("image/jpeg", picture.jpeg), alt=alt, class_="picture")


def _line(row: Mapping[str, Any]) -> Html:
    parameters = ", ".join(f"{key}={value}" for key, value in row["parameters"].items())
    counts = (f"{row[k]:.1f}" if isinstance(row[k], float) else str(row[k]) for k in ("trials", "queries", "gallery"))
    cells = [tag("td", text) for text in counts]
    for metric in METRICS:
        below = [soft(f"± {row['std'][metric]:.2f}")] if row["trials"] > 1 else []
        for mark, key in (("q", "interval"), ("id", "identity_interval")):
            if found := (row.get(key) or {}).get(metric):
                below.append(soft(f"{mark} [{found[0]:.2f}, {found[1]:.2f}]"))
        cells.append(tag("td", f"{row[metric]:.2f}", *below))
    return tag("tr", tag("th", row["inference"], soft(parameters), scope="row"), *cells)


def _query(number: int, query: Query) -> Html:
    panels = []
    for place, method in enumerate(query.methods):
        items = (_result(result) for result in method.results)
        about = tag("p", method.about, class_="soft")
        content = [tag("h4", method.name), about, tag("ol", *items, class_="results")]
        if method.moved:
            content.append(_moves(f"query {number}", method.moved))
        panels.append(tag("section", *content, id=f"query-{number}-{place}"))
    asked = tag("figure", image(query.picture, "query"), tag("figcaption", query.picture.words), class_="asked")
    tabs = tag("div", *panels, class_="tabs", data_label=f"Methods for query {number}")
    return tag("section", tag("h3", f"Query {number}: {query.picture.words}"), tag("div", asked, tabs, class_="query"))


def _result(result: Result) -> Html:
    rank = f"{result.rank} " if result.rank else ""
    said = f"rank {rank}" if rank else ""
    framed = tag("div", image(result.picture, said + MARKS[result.kind][2:]), class_="frame")
    mark = tag("span", rank, MARKS[result.kind], class_="mark")
    return tag("li", tag("figure", framed, tag("figcaption", mark, *map(soft, result.lines))), class_=result.kind)


def _moves(of: str, moved: Sequence[Moved]) -> Html:
    most = max(len(m.by) for m in moved)
    named = ("result", "place by cosine", "nearer by", *(f"image {i}" for i in range(1, most + 1)))
    head = tag("tr", *(tag("th", text, scope="col", class_="first") for text in named))
    lines = []
    for m in moved:
        name = [
            tag("span", f"{m.result.rank or ''} {MARKS[m.result.kind][0]}".strip()),
            image(m.result.picture, "result"),
        ]
        parts = (tag("div", image(picture, "moved by"), soft(text), class_="by") for picture, text in m.by)
        lines.append(
            tag(
                "tr",
                tag("th", *name, scope="row"),
                tag("td", m.plain),
                tag("td", m.correction),
                *(tag("td", part) for part in parts),
            )
        )
    words = "How much nearer to the query AIM put each result, and the gallery images with the largest part in that."
    table = tag(
        "table",
        tag("caption", tag("span", words, class_="pin")),
        tag("thead", head),
        tag("tbody", *lines),
        class_="moves",
    )
    region = tag("div", table, class_="scroll", tabindex=0, role="region", aria_label=f"What moved the results of {of}")
    return tag("details", tag("summary", "Which gallery images moved each result"), region, open="")


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"

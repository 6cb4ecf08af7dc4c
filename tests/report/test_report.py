"""The report as a document: nothing foreign in it, what it says is what the arrays say."""

import base64
import hashlib
import io
import itertools
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from jinja2 import UndefinedError
from PIL import Image

from saai_jax.affinity import aim, cosine
from saai_jax.report import lists, page
from tests import report_run

FIGURES = ["cmc-1", "distances-visible", "distances-infrared", "distances-across", "tsne-before", "tsne-after"]


class Document(HTMLParser):
    """Elements (name, attributes, text directly inside) of a page, in order; each has to be closed."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert len(attrs) == len(dict(attrs))
        self.elements.append((tag, dict(attrs), []))
        if tag not in ("img", "meta"):
            self.open.append(self.elements[-1])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open:
            self.open[-1][2].append(data)
            if self.open[-1][0] not in ("script", "style"):
                self.text += data

    def all(self, tag):
        return [(attributes, "".join(text)) for name, attributes, text in self.elements if name == tag]


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return report_run.write(tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The page of a features file; its results have neither curves nor intervals."""
    return report_run.write(tmp_path_factory.mktemp("report") / "report.html", full=False)


@pytest.fixture(params=["full", "bare"])
def written(request):
    return request.param == "full", request.getfixturevalue(request.param)


def test_nothing_foreign(written):
    """No element or attribute comes from a name, and nothing is fetched from anywhere."""
    pictured, file = written
    text = file.read_text()
    found = Document(text)
    assert (len(found.all("script")), len(found.all("style"))) == (0, 1)
    for name, attributes, _ in found.elements:
        assert not [key for key in attributes if key.startswith("on") or key in ("style", "href_", "action", "srcset")]
        assert attributes.get("src", "data:").startswith("data:"), name
        assert attributes.get("href", "#").startswith("#")
    assert report_run.HOSTILE in found.text
    policy = found.all("meta")[1][0]["content"]
    assert policy.startswith("default-src 'none'")
    assert "script" not in policy
    digest = hashlib.sha256(found.all("style")[0][1].encode()).digest()
    assert f"style-src 'sha256-{base64.b64encode(digest).decode()}'" in policy
    assert len(text) < 3e6
    assert pictured == ("Before the neck: not available" not in found.text)


def test_structure(written):
    """Language, headings without gaps, labels, alternatives, table headers; everything is visible without scripts."""
    pictured, file = written
    found = Document(file.read_text())
    assert found.all("html")[0][0] == {"lang": "en"}
    levels = [int(name[1]) for name, _, _ in found.elements if re.fullmatch("h[1-6]", name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    for _, attributes, _ in found.elements:
        assert "hidden" not in attributes
        assert not attributes.get("role", "").startswith("tab")
    ids = [attributes["id"] for _, attributes, _ in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {attributes["href"][1:] for attributes, _ in found.all("a")} <= set(ids)
    assert all(len(attributes.get("alt", "")) > 5 for attributes, _ in found.all("img"))
    assert all("scope" in attributes for attributes, _ in found.all("th"))
    assert len(found.all("caption")) == len(found.all("table"))
    methods = [
        (attributes["name"], "open" in attributes) for attributes, _ in found.all("details") if "name" in attributes
    ]
    queries = 3 if pictured else 6
    assert methods == [(f"query-{q}", first) for q in range(1, queries + 1) for first in (True, False, False, False)]
    assert [t for _, t in found.all("h4")][:4] == ["cosine", "SIM", "k-reciprocal", "AIM"]
    for name in ("Attention maps", "Correspondences"):
        assert (name in [t for _, t in found.all("h2")]) == pictured
        assert (name in [t for _, t in found.all("a")]) == pictured
    if not pictured:
        assert len(found.all("img")) == 5
        assert any(report_run.HOSTILE in text for _, text in found.all("bdi"))


def test_figures_and_pictures(written):
    pictured, file = written
    full = [*FIGURES, "cmc-2", "ranked", "attention", "coattention", "correspondences"]
    names = full if pictured else [name for name in FIGURES if name != "tsne-before"]
    assert {f.name for f in (file.parent / "figures").iterdir()} == {f"{n}.{s}" for n in names for s in ("png", "svg")}
    for attributes, _ in Document(file.read_text()).all("img"):
        kind, content = attributes["src"].split(";base64,")
        content = base64.b64decode(content, validate=True)
        if attributes["alt"].startswith("lines between"):
            assert Image.open(io.BytesIO(content)).size == (6 * (2 * 24 + 24 // 4), 6 * 48)
        elif kind == "data:image/jpeg":
            assert Image.open(io.BytesIO(content)).size[1] in (48, 72)
        else:
            assert content.startswith(b"<?xml")


def test_lists_are_the_rankings(full):
    """Marks, ranks and places of the first query's lists, counted one image after the other."""
    images = report_run.images()
    (query, gallery), valid = report_run.trial(images)
    row = lists.examples(images.identity, query, gallery, 3)[0]
    at = query.tolist().index(row)
    found = Document(full.read_text())
    kinds = [attributes["class"] for attributes, _ in found.all("li") if "class" in attributes]
    plain, revised = (
        np.asarray(matrix)[at]
        for matrix in (
            cosine(images.embedding[query], images.embedding[gallery]),
            aim(images.embedding[query], images.embedding[gallery], **report_run.AIM),
        )
    )

    def slow(distance):
        order = sorted(range(len(gallery)), key=lambda g: (distance[g], g))
        rank, lines = 0, []
        for g in order:
            rank += valid[at, g]
            same = images.identity[gallery[g]] == images.identity[row]
            kind = "right" if same else "wrong"
            lines.append((kind if valid[at, g] else "skipped", rank if valid[at, g] else 0, g))
        return lines

    for panel, distance in ((0, plain), (3, revised)):
        assert kinds[10 * panel : 10 * panel + 10] == [kind for kind, _, _ in slow(distance)[:10]]
    assert {"right", "wrong", "skipped"} <= set(kinds)
    marks = [text for attributes, text in found.all("span") if attributes.get("class") == "mark"]
    words = {"right": "✓ same person", "wrong": "✗ another person", "skipped": "– skipped by the protocol"}
    assert marks[:10] == [f"{rank or ''} {words[kind]}".strip() for kind, rank, _ in slow(plain)[:10]]
    # What moved AIM's first results: place by cosine, and the difference of both distances.
    places = {g: rank for _, rank, g in slow(plain)}
    cells = [text for _, text in found.all("td")]
    start = next(i for i, text in enumerate(cells) if re.fullmatch(r"\d+|–", text) and cells[i + 1][0] in "+-")
    for i, (_, _, g) in enumerate(slow(revised)[:10]):
        place, correction = cells[start + 5 * i : start + 5 * i + 2]
        assert place == str(places[g] or "–")
        assert float(correction) == pytest.approx(plain[g] - 1 - revised[g], abs=1e-3)


def test_correspondences_of_queries_and_their_nearest_true_matches(full):
    """Pairs by a loop, the same filters as the ranking's; of each a line of alternatives that says what is seen."""
    images = report_run.images()
    trial, valid = report_run.trial(images)
    shown = lists.examples(images.identity, *trial, 3)
    found = lists.matched(images, trial, valid, shown, 2)
    expected = []
    for row in shown[:2]:
        right = [
            (float(cosine(images.embedding[row][None], images.embedding[g][None])[0, 0]), g)
            for g, may in zip(trial[1], valid[trial[0].tolist().index(row)], strict=True)
            if may and images.identity[g] == images.identity[row]
        ]
        expected.append([row, min(right)[1]])
    np.testing.assert_array_equal(found, expected)
    alone = valid & (images.identity[trial[0]] != images.identity[shown[0]])[:, None]
    np.testing.assert_array_equal(lists.matched(images, trial, alone, shown, 1)[:, 0], shown[1:2])
    alts = [a["alt"] for a, _ in Document(full.read_text()).all("img")]
    start = next(i for i, alt in enumerate(alts) if alt.startswith("query: mask"))
    sides = ["query: mask", "query: co-attention", "match: co-attention", "match: mask"]
    for n, rows in enumerate(expected):
        of = alts[start + 5 * n :]
        for alt, side, row in zip(of, sides, np.repeat(rows, 2), strict=False):
            words = f"identity {images.identity[row]}, camera {images.camera[row]}"
            assert alt.startswith(f"{side}, {words}, ")
            assert alt.endswith(str(images.path[row]))
        assert of[4].startswith("lines between query and match: 18 correspondences, probability 0.")


def test_table_has_intervals_and_curves_their_rows(full, bare):
    found = Document(full.read_text())
    soft = [text for attributes, text in found.all("span") if attributes.get("class") == "soft"]
    assert soft.count("± 0.50") == 6 * 6
    row = report_run.document()["rows"][0]
    for mark, key in (("q", "interval"), ("id", "identity_interval")):
        low, high = row[key]["map"]
        assert soft.count(f"{mark} [{low:.2f}, {high:.2f}]") == 6
    groups = [text for attributes, text in found.all("span") if attributes.get("class") == "pin"][1:3]
    assert groups == [
        f"{report_run.HOSTILE} · p{p} · single shot · 2 trials of 30 queries in 30 images" for p in range(2)
    ]
    curves = [a["alt"] for a, _ in found.all("img") if a["alt"].startswith("CMC curves")]
    assert len(curves) == 2
    assert all("AIM: 30.0 % at rank 1, 99.0 % at rank 30" in alt for alt in curves)
    text = bare.read_text()
    assert "q [" not in text
    assert text.count("CMC curves, first trial of") == 1


def test_what_does_not_match_is_refused(tmp_path):
    images = report_run.images()
    trial, valid = report_run.trial(images)
    given = tmp_path / "report.html", report_run.document(), images, trial, valid, report_run.METHODS
    options = dict(title="t", setting="s", unique_identities=False)
    for change, message in (
        ({"shown": trial[1][:1]}, f"row {trial[1][0]} is to be shown and is no query"),
        ({"attention": np.zeros((1, 2, 6, 3))}, "attention has 1 rows, expected 6"),
        ({"feature": np.zeros((1, 2))}, "feature has 1 rows, expected 60"),
        ({"aligned": [None]}, "aligned has 1 rows, expected 0"),
        ({"shown": trial[0][:0]}, "at least one method and one query"),
    ):
        with pytest.raises(ValueError, match=message):
            page.write_page(*given, **options, **change)
    assert not (tmp_path / "report.html").exists()


def test_templates_escape_whatever_they_are_given_and_miss_nothing():
    made = page.TEMPLATES.from_string('<p class="{{ a }}">{{ b | join("=") }}</p>')
    assert made.render(a='"', b=["<b>", "'&"]) == '<p class="&#34;">&lt;b&gt;=&#39;&amp;</p>'
    with pytest.raises(UndefinedError, match="'b' is undefined"):
        made.render(a="")

"""The protocol of two lists and a rule."""

import numpy as np
import pytest

from input_pipeline import custom
from input_pipeline.index import DataError, Index

INDEX = Index(
    np.array(["a #1.png", "b.png", "c.png", "d.png", "e.png"]),
    np.array([1, 1, 2, 2, 1]),
    np.array([3, 1, 3, 2, 3]),
    np.array([1, 0, 1, 0, 0]),
)


@pytest.fixture
def ranked(tmp_path):
    def settings(query, gallery, rule="none", **options):
        files = tmp_path / "query.txt", tmp_path / "gallery.txt"
        for file, text in zip(files, (query, gallery), strict=True):
            file.write_text(text)
        return custom.settings(INDEX, *files, rule, **options)

    return settings


def test_rows_stand_in_the_order_of_the_lists(ranked):
    (setting,) = ranked("# queries\n\nc.png\r\n  a #1.png \n", "d.png\ne.png\nb.png")
    assert [rows.tolist() for rows in setting.trials[0]] == [[2, 0], [3, 4, 1]]
    assert (setting.dataset, setting.protocol, setting.direction) == ("custom", "custom-none", "infrared-to-visible")
    assert (setting.shots, setting.unique_identities) == ("-", False)


@pytest.mark.parametrize(
    ("rule", "unique", "valid"),
    [
        ("none", False, [[True, True, True], [True, True, True]]),
        ("same-camera", False, [[True, True, False], [True, True, True]]),
        ("sysu", True, [[True, False, False], [True, False, False]]),
    ],
)
def test_each_rule_skips_what_it_says(ranked, rule, unique, valid):
    (setting,) = ranked("a #1.png\nc.png", "b.png\nd.png\ne.png", rule)
    query, gallery = setting.trials[0]
    found = setting.valid(INDEX.identity[query], INDEX.camera[query], INDEX.identity[gallery], INDEX.camera[gallery])
    assert found.tolist() == valid
    assert (setting.protocol, setting.unique_identities) == (f"custom-{rule}", unique)


def test_the_direction_is_that_of_the_lists(ranked):
    (setting,) = ranked("b.png", "c.png\ne.png", dataset="sysu")
    assert (setting.dataset, setting.direction) == ("sysu", "visible-to-mixed")


def test_faults_of_the_lists_are_named_with_their_lines(ranked, tmp_path):
    def message(*arguments):
        with pytest.raises(DataError) as error:
            ranked(*arguments)
        return str(error.value)

    assert "query.txt:3: 'x.png' is none of the 5 paths, such as '" in message("# one\na #1.png\nx.png", "b.png")
    assert "gallery.txt:4: 'b.png' stands in line 1 already" in message("a #1.png", "b.png\nd.png\n\nb.png")
    many = message("\n".join(f"{i}.png" for i in range(20)), "b.png")
    assert (len(many.splitlines()), many.splitlines()[-1].endswith("20 such lines in all")) == (9, True)
    assert "gallery.txt: only comments" in message("a #1.png", "# b.png")
    assert "gallery.txt: empty file" in message("a #1.png", "\n")
    assert "b.png also in" in message("b.png", "b.png\ne.png")
    assert "no query has a match" in message("c.png", "b.png")
    assert "that the rule 'sysu' leaves" in message("c.png", "d.png", "sysu")
    with pytest.raises(DataError, match="absent.txt: cannot be read"):
        custom.settings(INDEX, tmp_path / "absent.txt", tmp_path / "gallery.txt", "none")
    repeated = INDEX.take(np.array([0, 1, 1]))
    with pytest.raises(DataError, match="index: b.png listed more than once"):
        custom.settings(repeated, tmp_path / "query.txt", tmp_path / "gallery.txt", "none")


def test_an_image_in_both_lists_is_taken_where_the_rule_skips_it_for_itself(ranked):
    for rule in ("same-camera", "sysu"):
        assert ranked("a #1.png", "a #1.png\nb.png", rule)[0].trials[0].gallery.tolist() == [0, 1]


def test_an_unknown_rule_and_an_unnamed_list_are_refused(tmp_path):
    with pytest.raises(ValueError, match="rule='camera', expected one of none, same-camera, sysu"):
        custom.settings(INDEX, "a", "b", "camera")
    with pytest.raises(ValueError, match="needs a query and a gallery list"):
        custom.settings(INDEX, "", "", "none")
    with pytest.raises(ValueError, match="needs a gallery list"):
        custom.settings(INDEX, "a", "", "none")


def test_paths_that_leave_the_data_root_are_refused_though_the_index_has_them(tmp_path):
    paths = np.array(["/etc/a.png", "../b.png", "c.png", "d/../../d.png", "e.png"])
    (tmp_path / "query.txt").write_text("c.png\n../b.png\n/etc/a.png\n")
    (tmp_path / "gallery.txt").write_text("e.png\n")
    index = Index(paths, INDEX.identity, INDEX.camera, INDEX.modality)
    with pytest.raises(DataError) as error:
        custom.settings(index, tmp_path / "query.txt", tmp_path / "gallery.txt", "none")
    second, third = str(error.value).splitlines()
    assert "query.txt:2: path '../b.png' leaves the data root" in second
    assert "query.txt:3: path '/etc/a.png' leaves the data root" in third

"""--mode=correspond in this process, by a map that needs no network: means of cells of 8 x 8 pixels."""

import itertools
import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import market, synthetic
from input_pipeline.index import DataError
from modes import correspond
from modes.building import source_of
from saai_jax.affinity import cosine
from saai_jax.report.correspondence import strongest

HEIGHT, WIDTH, ROWS, COLUMNS = 64, 32, 8, 4


WEIGHTS = jnp.ones((2, 9)) * jnp.array([[1.0], [2.0]])  # of the channels, by modality


class Cells:
    """A system of which only `dense` is asked: in infrared images it weighs the channels otherwise."""

    @staticmethod
    def dense(variables, image, modality):
        cells = image.reshape(len(image), ROWS, 8, COLUMNS, 8, 3).mean((2, 4))
        weights = variables["weights"][modality][:, None, None]
        return weights * jnp.concatenate([cells, cells**2, jnp.sin(9 * cells)], -1)


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setattr(correspond, "trained", lambda config, workdir: (Cells, {"weights": WEIGHTS}))
    c = synthetic.get_config("tiny")
    c.data.height, c.data.width = HEIGHT, WIDTH
    return c


def write(file, cells):
    """A picture of plain cells, without loss."""
    Image.fromarray(cells.repeat(8, 0).repeat(8, 1)).save(file)
    return str(file)


@pytest.fixture
def files(tmp_path):
    """a; b: a, a row of cells lower; c: a itself again."""
    cells = np.random.default_rng(0).integers(0, 256, (ROWS + 1, COLUMNS, 3), np.uint8)
    return [write(tmp_path / f"{n}.png", of) for n, of in zip("abc", (cells[1:], cells[:-1], cells[1:]), strict=True)]


def test_positions_in_pixels_of_what_was_moved(config, files, tmp_path, caplog):
    a, b, c = files
    lines = tmp_path / "pairs.csv"
    lines.write_text(f"\n{a}, {c}, scale\n{b},{a},occlusion\n{c},{a}\n")
    with caplog.at_level("INFO"):
        correspond.correspond(config, str(tmp_path / "work"), pair=[f"{a},{b},occlusion"], pairs=str(lines))
    assert f"wrote correspondences.json, correspondences.png and coattention.png to {tmp_path / 'work'}" in caplog.text
    for name in ("correspondences.png", "coattention.png"):
        assert Image.open(tmp_path / "work" / name).size[0] in (500, 800)
    found = json.loads((tmp_path / "work" / "correspondences.json").read_text())
    assert [found[key] for key in ("height", "width", "modality", "mutual", "mask")] == [
        HEIGHT,
        WIDTH,
        ["infrared", "visible"],
        False,
        False,
    ]
    moved = {"": 0, "scale": 0, "occlusion": 8}  # pixels downward from first to second
    expected = [("", c, a), ("occlusion", a, b), ("occlusion", b, a), ("scale", a, c)]
    assert [(pair["group"], pair["first"], pair["second"]) for pair in found["pairs"]] == expected
    for pair in found["pairs"]:
        assert len(pair["matches"]) == 20
        down = moved[pair["group"]] * (1 if pair["first"] == a else -1)
        inside = 0
        for match in pair["matches"]:
            (x, y), (x2, y2) = match["first"], match["second"]
            assert (x % 8, y % 8, x2 % 8, y2 % 8) == (4, 4, 4, 4)
            if 0 < y + down < HEIGHT:  # the others left the picture
                inside += 1
                assert (x2, y2) == (x, y + down)
        assert inside >= 17
        strengths = [match["probability"] for match in pair["matches"]]
        assert strengths == sorted(strengths, reverse=True)


def test_filters_leave_what_is_mutual_and_what_both_masks_show(config, files, tmp_path, monkeypatch):
    """Of two unlike pictures, as `strongest` of cosines worked out here; each image is seen as its own modality."""
    random = np.random.default_rng(1)
    paths = files[0], write(tmp_path / "d.png", random.integers(0, 256, (ROWS, COLUMNS, 3), np.uint8))
    weights = random.uniform(0.8, 1.2, (2, 9)).astype(np.float32)
    monkeypatch.setattr(correspond, "trained", lambda config, workdir: (Cells, {"weights": jnp.asarray(weights)}))
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    images = [(np.asarray(Image.open(path))[4::8, 4::8].reshape(-1, 3) / 255 - mean) / deviation for path in paths]
    seen = []
    for mutual, mask, code in itertools.product([False, True], [False, True], [0, 1]):
        how = {"modality": ["visible", "infrared"][code], "mutual": mutual, "mask": mask}
        correspond.correspond(config, str(tmp_path), pair=[",".join(paths)], **how)
        written = json.loads((tmp_path / "correspondences.json").read_text())
        assert written["modality"] == [["visible", "infrared"], ["infrared", "visible"]][code]
        x, y = (
            weights[of] * np.concatenate([i, i**2, np.sin(9 * i)], -1).astype(np.float32)
            for i, of in zip(images, (code, 1 - code), strict=True)
        )
        sharp = [np.exp(-50 * np.asarray(cosine(*of), np.float64)) for of in ((x, y), (y, x))]
        probability, back = (of / of.sum(1, keepdims=True) for of in sharp)
        norms = [np.linalg.norm(of, axis=1) for of in (x, y)]
        first, second = ((norm - norm.min()) / (norm.max() - norm.min()) for norm in norms)
        masks = {"mask": first, "target_mask": second} if mask else {}
        expected = strongest(probability, back if mutual else None, **masks)
        matches = written["pairs"][0]["matches"]
        cells = [[int(y // 8) * COLUMNS + int(x // 8) for x, y in (m["first"], m["second"])] for m in matches]
        assert {tuple(of) for of in cells} == {*zip(expected.position, expected.target, strict=True)}
        np.testing.assert_allclose([m["probability"] for m in matches], expected.probability, rtol=1e-3)
        seen.append(cells)
    for of in (seen[::2], seen[1::2]):
        assert len({str(cells) for cells in of}) == 4
    assert seen[0] != seen[1]


def test_pictures_of_a_visible_data_set_are_both_visible(config, files, tmp_path):
    c = market.get_config()
    c.data.height, c.data.width = HEIGHT, WIDTH
    correspond.correspond(c, str(tmp_path), pair=[",".join(files[:2])])
    assert json.loads((tmp_path / "correspondences.json").read_text())["modality"] == ["visible"] * 2


def test_coattention_is_of_each_image_with_the_other(config, files):
    """By a loop over both, and the same when they change places."""
    size = source_of(config).size
    images = np.stack([correspond.own_pictures.read(file, size) for file in files[:2]])
    of = correspond.aligned(Cells.dense, {"weights": WEIGHTS}, images, np.int32([1, 0]))
    np.testing.assert_allclose(of.probability.sum(2), 1, rtol=1e-5)
    for i in (0, 1):
        moved = (of.probability[i] @ of.mask[1 - i].ravel()).reshape(ROWS, COLUMNS)
        product = of.mask[i] * moved
        low, high = product.min(), product.max()
        np.testing.assert_allclose(of.coattention[i], (product - low) / (high - low), atol=1e-5)
    swapped = correspond.aligned(Cells.dense, {"weights": WEIGHTS}, images[::-1], np.int32([0, 1]))
    for one, other in zip(of, swapped, strict=True):
        np.testing.assert_allclose(one, other[::-1], atol=1e-5)


def test_mistakes_are_named_all_at_once(config, files, tmp_path, monkeypatch):
    a, b, _ = files
    (tmp_path / "no.png").write_bytes(b"no picture")
    lines = tmp_path / "pairs.txt"
    lines.write_text(f"{a}\n{a},{b},scale,more\n,{b}\n")
    many = tmp_path / "many.txt"
    many.write_text(f"{a},{b}\n" * 101)
    for how, error, messages in (
        ({}, ValueError, ["needs --pair=A,B or --pairs=FILE of such lines, got 0 pairs, expected 1 to 100"]),
        ({"pairs": str(many)}, ValueError, ["got 101 pairs, expected 1 to 100"]),
        ({"pairs": str(tmp_path / "none.txt")}, DataError, ["none.txt: cannot be read, expected a text file"]),
        (
            {"pairs": str(lines), "pair": [a]},
            DataError,
            [
                f"--pair={a}: expected A,B or A,B,GROUP, the paths of two pictures and a word",
                *(f"{lines}:{n}: " for n in (1, 2, 3)),
            ],
        ),
        (
            {"pair": [f"{a},{tmp_path / 'no.png'}", f"{tmp_path},nowhere.jpg"]},
            DataError,
            [
                f"{tmp_path / 'no.png'}: not a readable image, 10 bytes",
                f"{tmp_path}: no such file, expected a picture",
                "nowhere.jpg: no such file, expected a picture",
            ],
        ),
    ):
        with pytest.raises(error) as found:
            correspond.correspond(config, str(tmp_path / "work"), **how)
        said = str(found.value).splitlines()
        assert [m in line for m, line in zip(messages, said, strict=True)] == [True] * len(messages)
    monkeypatch.setattr(Cells, "dense", None)
    with pytest.raises(ValueError, match="system 'saai' has no feature map to match, expected one with System.dense"):
        correspond.correspond(config, str(tmp_path / "work"), pair=[f"{a},{b}"])
    assert not (tmp_path / "work").exists()

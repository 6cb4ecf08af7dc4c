"""launch.py as a user runs it, in processes of its own, on the tiny synthetic set."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import scipy.io
from PIL import Image

from launch import MODES
from saai_jax import features
from saai_jax.log import read_metrics
from saai_jax.ranking import results
from tests.golden_files import load
from tests.launching import FORKS, ROOT, TINY, drawn, launch

# The cheapest evaluation, where a test is about training.
BRIEF = ["--config.eval.baselines=False", "--config.inference=cosine"]
BRIEF += ["--config.eval.search=indoor", "--config.eval.shots=single"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished tiny run: its folder, its data and what it printed."""
    folder = tmp_path_factory.mktemp("run")
    where = [TINY, f"--config.data.root={folder / 'data'}"]
    return folder, where, launch(*where, f"--workdir={folder / 'work'}", fresh=True)


@pytest.fixture(scope="module")
def extracted(run):
    """The features file of the test images of that run."""
    folder, where, _ = run
    launch(*where, f"--workdir={folder / 'work'}", "--mode=extract")
    return folder / "work" / "features-test.npz"


def test_the_default_job_leaves_everything_it_promises(run):
    folder, _, printed = run
    work = folder / "work"
    for name in ("config.json", "metrics.jsonl", "results.json", "curves.png", "ranked.png", "attention.png"):
        assert (work / name).stat().st_size > 0, name
    rows = results.read(work / "results.json")["rows"]
    assert len(rows) == 4 * 4  # settings x {chance, pixels, cosine, aim}
    assert {r["trials"] for r in rows} == {10}
    assert "sysu-official-indoor" in printed
    assert "nearest pixels" in printed
    assert "14 steps, 7 to 7 an epoch" in printed
    entries = read_metrics(work / "metrics.jsonl")
    assert [entry["epoch"] for entry in entries if entry["kind"] == "validation"] == [1, 2]  # as the log counts them
    assert "epoch 1: loss" in printed
    assert "epoch 2: loss" in printed


def test_a_rerun_of_a_finished_run_evaluates_again_and_gives_the_same(run):
    folder, where, _ = run
    before = results.read(folder / "work" / "results.json")["rows"]
    metrics = (folder / "work" / "metrics.jsonl").read_text()
    assert "going on after step 14 of 14" in launch(*where, f"--workdir={folder / 'work'}")
    assert results.read(folder / "work" / "results.json")["rows"] == before
    assert (folder / "work" / "metrics.jsonl").read_text() == metrics


def test_extract_and_rank_agree_with_evaluate(run, extracted):
    folder, where, _ = run
    assert features.load(extracted).embedding.shape[1] == 8 * (7 + 1) * 8  # parts and global, 64 channels
    launch(*where, f"--workdir={folder / 'ranked'}", "--mode=rank", f"--features={extracted}")
    ranked = results.read(folder / "ranked" / "results.json")["rows"]
    evaluated = results.read(folder / "work" / "results.json")["rows"]
    assert ranked == [r for r in evaluated if r["inference"] in ("cosine", "aim")]


def test_an_exported_network_gives_the_features_that_extract_wrote(run, extracted):
    folder, where, _ = run
    printed = launch(*where, f"--workdir={folder / 'work'}", "--mode=export")
    kept, rows = features.load(extracted), slice(None, None, 40)
    for name in ("network", "aim"):
        file = folder / "work" / "export" / f"{name}.stablehlo"
        data, about = file.read_bytes(), json.loads(file.with_name(f"{file.name}.json").read_text())
        assert about["sha256"] == hashlib.sha256(data).hexdigest()
        assert (about["height"], about["width"], about["k1"], about["k2"]) == (48, 24, 8, 2)
        assert f"wrote {file}" in printed
        if name == "network":
            image = np.stack([Image.open(folder / "data" / path) for path in kept.path[rows]])
            found = jax.export.deserialize(data).call(image, kept.modality[rows].astype(np.int32))
            expected = kept.embedding[rows] / np.linalg.norm(kept.embedding[rows], axis=1, keepdims=True)
            np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


def test_every_inference_ranks_and_says_how(run, extracted):
    folder, where, _ = run
    names = ["cosine", "euclidean", "aim", "sim", "k_reciprocal", "sgr", "mnnr"]
    printed = launch(
        *where,
        "--mode=rank",
        f"--features={extracted}",
        f"--workdir={folder / 'every'}",
        f"--config.inference={','.join(names)}",
        "--config.sim.kq=7",
        "--config.aim.expand=False",
        "--config.eval.shots=multi",
        "--config.eval.search=all",
    )
    rows = results.read(folder / "every" / "results.json")["rows"]
    assert [r["inference"] for r in rows] == names
    assert rows[3]["parameters"]["kq"] == 7
    assert rows[2]["parameters"] == {"k1": 20, "k2": 6, "variant": "released", "remove": True, "expand": False}
    assert len({r["map"] for r in rows}) >= 4  # each ranks in its own way
    assert printed.count("k_reciprocal looks at all queries at once") == 1


def test_two_files_named_columns_and_a_comparison(extracted, tmp_path):
    """Queries and gallery of another program, apart and under other names; then whether AIM's gain could be chance."""
    whole = features.load(extracted)
    for name, rows in (("query", whole.modality == 1), ("gallery", whole.modality == 0)):
        arrays = {"feat": whole.embedding[rows], "pid": whole.identity[rows], "cam": whole.camera[rows]}
        scipy.io.savemat(tmp_path / f"{name}.mat", arrays)
    printed = launch(
        "--config=configs/custom.py",
        "--mode=rank",
        f"--features={tmp_path / 'query.mat'}",
        f"--gallery={tmp_path / 'gallery.mat'}",
        "--columns=embedding=feat,identity=pid,camera=cam",
        "--infrared_cameras=3,6",
        "--config.inference=cosine,aim",
        f"--workdir={tmp_path}",
    )
    assert "custom-same-camera" in printed
    assert "infrared-to-visible" in printed
    row = results.read(tmp_path / "results.json")["rows"][0]
    assert row["queries"] == (whole.modality == 1).sum()
    low, high = row["interval"]["map"]
    assert low < row["map"] < high
    compared = launch("--mode=compare", tmp_path / "results.json")
    assert "aim" in compared
    assert "cosine" in compared
    assert "expected one or two" not in compared
    assert "needs one or two results.json, got 0 files" in launch("--mode=compare", code=1)
    assert "'configs/sysu.py' is no flag" in launch("configs/sysu.py", code=1)


@pytest.mark.parametrize("kind", ["packed", "resized"])
def test_what_was_prepared_trains_to_the_same_bits_as_the_folder(run, kind):
    folder, where, _ = run
    prepared = f"--config.data.{kind}={folder / kind}"
    assert f"train from it with {prepared}" in launch(*where, "--mode=prepare", prepared)
    launch(*where, prepared, *BRIEF, f"--workdir={folder / f'from_{kind}'}")
    of_folder, of_prepared = (folder / name / "metrics.jsonl" for name in ("work", f"from_{kind}"))
    assert of_folder.read_text() == of_prepared.read_text()


def test_the_paper_preset_and_another_layout_run(tmp_path):
    launch(
        "--config=configs/synthetic.py:tiny,regdb,paper",
        f"--config.data.root={drawn(tmp_path / 'data', 'regdb')}",
        "--config.train.epochs=1",
        "--config.data.workers=1",
        f"--workdir={tmp_path / 'work'}",
    )
    rows = results.read(tmp_path / "work" / "results.json")["rows"]
    assert {r["direction"] for r in rows} == {"visible-to-infrared", "infrared-to-visible"}
    assert {r["parameters"].get("variant") for r in rows if r["inference"] == "aim"} == {"paper"}


# One stage, for it is compiled for nothing else.
@pytest.mark.parametrize(("words", "masks"), [("regdb,mpanet", True), ("llcm,caj", False)])
def test_other_systems_run_in_other_layouts_and_draw_what_they_look_at(tmp_path, words, masks):
    printed = launch(
        f"--config=configs/synthetic.py:tiny,{words}",
        f"--config.data.root={drawn(tmp_path / 'data', words.split(',')[0])}",
        "--config.train.epochs=1",
        "--config.eval.baselines=False",
        "--config.inference=cosine",
        "--config.model.stages=(1,)",
        *([] if masks else ["--config.model.non_local=(1,)"]),
        f"--workdir={tmp_path / 'work'}",
    )
    found = json.loads((tmp_path / "work" / "config.json").read_text())
    assert (found["system"], found["data"]["sampler"]) == (("mpanet", "paired") if masks else ("agw", "replacement"))
    assert {r["inference"] for r in results.read(tmp_path / "work" / "results.json")["rows"]} == {"cosine"}
    assert (tmp_path / "work" / "attention.png").exists() == masks, printed


def test_what_the_evaluation_needs_is_looked_at_before_training(run, tmp_path):
    folder, where, _ = run
    permutation = folder / "data" / "exp" / "rand_perm_cam.mat"
    permutation.rename(tmp_path / "away.mat")
    try:
        printed = launch(*where, f"--workdir={tmp_path / 'a'}", code=1)
    finally:
        (tmp_path / "away.mat").rename(permutation)
    assert "rand_perm_cam.mat: no such file" in printed
    printed = launch(
        *where, f"--workdir={tmp_path / 'b'}", "--config.data.validation=False", "--config.eval.checkpoint=best", code=1
    )
    assert "needs identities to choose by" in printed
    for name in "ab":
        assert not (tmp_path / name / "metrics.jsonl").exists()


def test_evaluation_under_another_configuration_is_refused(run):
    folder, where, _ = run
    flags = "--mode=evaluate", "--config.model.aggregate_position=True"
    printed = launch(*where, f"--workdir={folder / 'work'}", *flags, code=1)
    assert "model.aggregate_position was False and is True" in printed


def test_a_refused_configuration_leaves_the_workdir_usable(run, tmp_path):
    _, where, _ = run
    launch(*where, f"--workdir={tmp_path}", "--config.loss.mutual_variant=papr", "--config.train.epochs=1", code=1)
    launch(*where, f"--workdir={tmp_path}", "--config.train.epochs=1", *BRIEF)


def test_the_sampler_names_the_identities_of_the_data_set(run, tmp_path):
    folder, where, _ = run
    # Above 8, so that it is no label of the 8 training identities.
    trained = [int(i) for i in (folder / "data" / "exp" / "train_id.txt").read_text().split(",")]
    identity = max(trained)
    moved = sorted((folder / "data").glob(f"cam[36]/{identity:04d}/*.jpg"))[2:]
    for number, picture in enumerate(moved):
        picture.rename(tmp_path / f"{number}.jpg")
    try:
        printed = launch(*where, f"--workdir={tmp_path / 'work'}", "--config.data.images=8", code=1)
    finally:
        for number, picture in enumerate(moved):
            (tmp_path / f"{number}.jpg").rename(picture)
    assert f"fewer than 4 visible or 4 infrared images: {identity}" in printed


def test_a_changed_config_is_refused(run):
    folder, where, _ = run
    printed = launch(*where, f"--workdir={folder / 'work'}", "--config.train.epochs=3", code=1)
    assert "train.epochs was 2 and is 3" in printed
    assert "--accept_changes" in printed


def test_an_unreadable_image_stops_the_run_before_training(run, tmp_path):
    folder, where, _ = run
    picture = sorted((folder / "data" / "cam1").glob("*/*.jpg"))[0]
    whole = picture.read_bytes()
    picture.write_bytes(whole[: len(whole) // 2])
    try:
        for mode in ("train", "prepare", "doctor"):
            printed = launch(*where, f"--workdir={tmp_path / mode}", f"--mode={mode}", code=1)
            assert f"{picture.parent.name}/{picture.name}" in printed, mode
            assert not (tmp_path / mode / "checkpoints").exists()
    finally:
        picture.write_bytes(whole)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/sysu.py:multishots"], "Did you mean 'multishot'?"),
        ([TINY, "--config.train.epoch=3"], 'Did you mean "epochs"'),
        (["--config.train.epoch=3"], 'Did you mean "epochs"'),
        (["--config=configs/regdb.py", "--config.traine.epochs=3"], 'Did you mean "train"'),
        (["--mode=evaluate", "--features=a.npz"], "--features is for --mode=rank, report or ablate, not for evaluate"),
        (["--mode=search", "--pair=a,b"], "--pair is for --mode=correspond, not for search"),
        (
            ["--config=configs/custom.py", "--mode=doctor"],
            "the doctor examines sysu, regdb, llcm, market1501, dukemtmc, ",
        ),
        ([TINY, "--config.data.identities=40"], "a batch needs 40 identities, the training set has 8"),
        ([TINY, "--config.data.height=6"], "smaller than the backbone's stride"),
        ([TINY, "--config.inference=cosin"], "'cosin' is none of cosine, euclidean, aim"),
        ([TINY, "--config.model.dtype=float16"], "expected float32 or bfloat16"),
        ([TINY, "--config.loss.mutual_variant=papr"], "variant is 'papr', expected 'released' or 'paper'"),
        ([TINY, "--mode=evaluate"], "has no checkpoint; train first"),
        ([TINY, "--mode=rank"], "--mode=rank needs --features"),
        (["--config=configs/sysu.py", "--config.data.root=nowhere"], "nowhere"),
        (["--config=configs/sysu.py", "--config.data.root=nowhere", "--mode=doctor"], "github.com/wuancong/SYSU-MM01"),
        (
            ["--config=configs/sysu.py:multishot"],
            "data/sysu: no such folder; name your folder with --config.data.root=DIR",
        ),
        (
            ["--config=sysu:multishot"],
            "Did you mean --config=configs/sysu.py:multishot? There are configs/ablation.py, ",
        ),
        (["--config=configs/susy.py", "--config.seed=1"], "Did you mean --config=configs/sysu.py? There are "),
        (
            ["--mode=rank", "--features=a.npz"],
            "needs a protocol to be ranked by: name one with --config=..., of configs/c",
        ),
        (["--mode=trian"], "did you mean --mode=train?"),
        (["doctr"], "'doctr' is no flag; did you mean --mode=doctor?"),
        (["--dataroot=a"], "did you mean --config.data.root?"),
        (
            [TINY, "--mode=search", "--query=nowhere", "--gallery=nowhere"],
            "nowhere: cannot be listed, expected a folder",
        ),
        (
            ["--config=configs/sysu.py", "--mode=rank", "--features=SYSU"],
            "data/sysu/exp: no such folder, expected test_id",
        ),
        (["--config=configs/sysu.py", "--config.dataset=sisu"], "expected one of sysu, regdb, llcm"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistakes_are_named(run, tmp_path, arguments, message):
    _, where, _ = run
    data = where[1:] if TINY in arguments else []
    if "--features=SYSU" in arguments:
        save_sysu(tmp_path / "sysu.npz")
        arguments = [*arguments[:-1], f"--features={tmp_path / 'sysu.npz'}"]
    assert message in launch(*arguments, *data, f"--workdir={tmp_path}", code=1)


def save_sysu(file):
    """Writes the golden features of SYSU-MM01's test images; the golden figures, identities and cameras."""
    golden = load("sysu")
    identity, camera = golden["identity"].astype(np.int32), golden["camera"].astype(np.int32)
    path = [f"cam{c}/{i:04d}/{n:04d}.jpg" for c, i, n in zip(camera, identity, golden["number"], strict=True)]
    modality = np.isin(camera, (3, 6)).astype(np.int32)
    features.save(file, features.Features(golden["embedding"], identity, camera, modality, np.array(path)))
    return golden, identity, camera


def test_random_galleries_through_the_command_line(tmp_path):
    """AGW's protocol, which needs no permutation file."""
    save_sysu(tmp_path / "features.npz")
    launch(
        "--mode=rank",
        "--config=configs/sysu.py",
        f"--features={tmp_path / 'features.npz'}",
        "--config.eval.protocol=sysu-random",
        "--config.inference=cosine",
        f"--workdir={tmp_path}",
    )
    golden, rows = load("sysu_random"), results.read(tmp_path / "results.json")["rows"]
    assert [r["protocol"] for r in rows] == ["sysu-random-all", "sysu-random-indoor"]
    for r in rows:
        place = r["protocol"].split("-")[-1]
        found = np.array([[t[f"rank{k}"] for k in (1, 5, 10, 20)] + [t["map"], t["minp"]] for t in r["per_trial"]])
        wanted = np.hstack([golden[f"{place}/cmc"][:, [0, 4, 9, 19]], golden[f"{place}/map_minp"]])
        np.testing.assert_allclose(found / 100, wanted, atol=1e-4)


def test_regdb_figures_through_the_command_line(tmp_path):
    golden = load("regdb")
    identity = np.tile(golden["identity"].astype(np.int32), 2)
    modality = np.repeat(np.int32([0, 1]), len(golden["identity"]))
    path = np.array(
        [
            f"{'Thermal' if m else 'Visible'}/{i}/{n}.bmp"
            for n, (i, m) in enumerate(zip(identity, modality, strict=True))
        ]
    )
    embedding = np.concatenate([golden["visible"], golden["thermal"]])
    features.save(tmp_path / "features.npz", features.Features(embedding, identity, modality + 1, modality, path))
    launch(
        "--mode=rank",
        "--config=configs/regdb.py",
        f"--features={tmp_path / 'features.npz'}",
        "--config.inference=cosine",
        f"--workdir={tmp_path}",
    )
    for r in results.read(tmp_path / "results.json")["rows"]:
        key = {"visible-to-infrared": "visible_to_thermal", "infrared-to-visible": "thermal_to_visible"}[r["direction"]]
        np.testing.assert_allclose(np.array(r["cmc"][:20]) / 100, golden[f"{key}/cmc"], atol=1e-4)
        np.testing.assert_allclose([r["map"] / 100, r["minp"] / 100], golden[f"{key}/map_minp"], atol=1e-4)


def test_report_embed_and_search(run, extracted):
    """The page of a run, and one's own pictures: here the synthetic set's folders, read as any others."""
    folder, where, _ = run
    at = f"--workdir={folder / 'work'}"
    launch(*where, at, "--mode=report", "--config.inference=cosine,sgr,mnnr,sim")
    page = (folder / "work" / "report.html").read_text()
    assert "<script src" not in page
    methods = re.findall(r"<h4[^>]*>([^<]+)</h4>", page)  # the configured ones first, then those of every report
    assert methods[:7] == ["cosine", "SGR", "MNNR", "SIM", "k-reciprocal", "AIM", "cosine"]
    assert (folder / "work" / "figures" / "tsne-after.svg").exists()
    assert page.count('alt="lines between query and match: ') == 3
    infrared, visible = folder / "data" / "cam3", folder / "gallery"
    shutil.copytree(folder / "data" / "cam1", visible)
    picture = next(visible.glob("*/*.jpg"))
    picture.rename(visible / "$\\frac{$.jpg")
    (visible / "=1.jpg").write_bytes(b"no picture")
    launch(*where, at, "--mode=embed", f"--pictures={infrared}", "--modality=infrared", "--identities")
    made, whole = features.load(folder / "work" / "pictures-cam3.npz"), features.load(extracted)
    row = int(np.flatnonzero(whole.camera == 3)[0])
    own = made.path.tolist().index(whole.path[row].removeprefix("cam3/"))
    assert made.identity[own] == whole.identity[row]
    np.testing.assert_allclose(made.embedding[own], whole.embedding[row], rtol=1e-3, atol=1e-4)
    command = [*where, at, "--mode=search", f"--query={infrared}", f"--gallery={visible}", "--top=3"]
    printed = launch(*command, code=1)
    assert f"{visible}/=1.jpg: not a readable image" in printed
    assert "--skip_unreadable" in printed
    assert f"{visible}: 1 of {len(list(visible.rglob('*.jpg')))} are left out" in launch(*command, "--skip_unreadable")
    lines = (folder / "work" / "ranked-aim.csv").read_text().splitlines()
    assert len(lines) == 1 + 3 * len(made.path)
    assert (folder / "work" / "ranked-cosine.png").stat().st_size > 0


def test_what_two_pictures_have_in_common(run):
    """A pair twice, in a file under its word and as a flag, by the weights of the run."""
    folder, where, _ = run
    data, work = folder / "data", folder / "work"
    infrared = next((data / "cam3").glob("*/*.jpg"))
    pair = f"{infrared},{next((data / 'cam1' / infrared.parent.name).glob('*.jpg'))}"
    (folder / "pairs.csv").write_text(f"{pair},viewpoint\n")
    flags = "--mode=correspond", f"--pair={pair}", f"--pairs={folder / 'pairs.csv'}", "--mutual"
    printed = launch(*where, f"--workdir={work}", *flags)
    assert f"wrote correspondences.json, correspondences.png and coattention.png to {work}" in printed
    found = json.loads((work / "correspondences.json").read_text())
    alone, grouped = found["pairs"]
    assert (alone["group"], grouped["group"], alone["matches"]) == ("", "viewpoint", grouped["matches"])
    assert alone["matches"]
    assert {m["first"][0] % 8 for m in alone["matches"]} == {4}  # a map of 8 x 4 cells of 64 x 32 pixels
    for name in ("correspondences.png", "coattention.png"):
        assert (work / name).stat().st_size > 0


def test_official_figures_through_the_command_line(tmp_path):
    """Ten trials of the four settings on the golden features, with a permutation file that draws their galleries."""
    golden, identity, camera = save_sysu(tmp_path / "features.npz")
    split = tmp_path / "split"
    split.mkdir()
    (split / "test_id.txt").write_text(",".join(map(str, np.unique(identity))))
    cells = np.empty((6, 1), object)
    for c in range(1, 7):
        cells[c - 1, 0] = np.empty((identity.max(), 1), object)
        for i in range(1, identity.max() + 1):
            rows = np.flatnonzero((camera == c) & (identity == i))
            order = np.tile(rows, (10, 1))
            for t in range(10) if c not in (3, 6) and len(rows) else ():
                first = [r for r in golden["gallery"][t] if camera[r] == c and identity[r] == i]
                order[t] = first + [r for r in rows if r not in first]
            cells[c - 1, 0][i - 1, 0] = golden["number"][order] if len(rows) else np.zeros((10, 0))
    scipy.io.savemat(split / "rand_perm_cam.mat", {"rand_perm_cam": cells})

    launch(
        "--mode=rank",
        "--config=configs/sysu.py",
        f"--features={tmp_path / 'features.npz'}",
        f"--config.data.split_dir={split}",
        "--config.inference=euclidean,cosine,aim",
        f"--workdir={tmp_path / 'work'}",
        optimised=True,
    )
    rows = results.read(tmp_path / "work" / "results.json")["rows"]
    assert len(rows) == 4 * 3
    for r in rows:
        key = f"{r['protocol'].split('-')[-1]}_{ {'single': 1, 'multi': 10}[r['shots']] }"
        if r["inference"] == "euclidean":
            trials = [[t["rank1"], t["rank5"], t["rank10"], t["rank20"]] for t in r["per_trial"]]
            np.testing.assert_allclose(np.array(trials) / 100, golden[f"official/{key}/cmc"], atol=1e-4)
            average = [t["map"] / 100 for t in r["per_trial"]]
            np.testing.assert_allclose(average, golden[f"official/{key}/map"], atol=1e-4)
        else:
            ours = [r["map"], r["rank1"], r["rank5"], r["rank10"], r["rank20"]]
            expected = golden[f"released/{key}/{r['inference']}"]
            np.testing.assert_allclose(ours[1:], expected[1:], atol=1e-4)
            # In per cent: pairs that float32 cannot tell apart could move it by 4.5e-4 (docs/parity.md).
            np.testing.assert_allclose(ours[0], expected[0], atol=1e-3)


def test_the_results_name_what_made_them(run):
    document = json.loads((run[0] / "work" / "results.json").read_text())
    assert document["config"]["data"]["synthetic"] == "tiny"
    assert any("launch.py" in word for word in document["command"])
    assert document["versions"]["jax"]


def test_the_help_has_every_mode_and_three_examples():
    printed = launch("--help", code=1)
    modes = printed.split("Modes:")[1].split("Examples:")[0].split("\n")
    assert {line.split(":")[0].strip() for line in modes} - {""} == {*MODES, "compare"}
    assert printed.split("Examples:")[1].split("flags:")[0].count("python launch.py") == 3


def stuck(ready):
    """A process whose main thread computes and sees no signal."""
    import launch as program

    program.end_at_second_interrupt()
    signal.signal(signal.SIGINT, lambda *_: None)
    ready.set()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)


def test_a_second_interrupt_ends_a_process_that_sees_no_signal():
    ready = FORKS.Event()
    process = FORKS.Process(target=stuck, args=(ready,))
    process.start()
    assert ready.wait(60)
    time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    process.join(0.3)
    assert process.exitcode is None
    os.kill(process.pid, signal.SIGINT)
    process.join(10)
    process.kill()
    assert process.exitcode == 130


LEFT_BEHIND = """
import asyncio, time
import tensorstore
import launch

class Broken:
    def __del__(self):
        raise ValueError("said")

promise, future = tensorstore.Promise.new()
async def wait():
    await future
loop = asyncio.new_event_loop()
task = loop.create_task(wait())
loop.run_until_complete(asyncio.sleep(0.01))
loop.close()
launch.sys.unraisablehook = launch.unraised
promise.set_result(1)
Broken()
time.sleep(0.2)
"""


def test_a_failed_save_leaves_no_traceback_behind():
    """Its writes end after the loop that waited for them is closed; what else cannot be raised is still printed."""
    done = subprocess.run([sys.executable, "-c", LEFT_BEHIND], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "said" in done.stderr
    assert "Event loop is closed" not in done.stderr

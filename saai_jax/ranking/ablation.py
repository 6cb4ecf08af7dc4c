"""Studies of one thing at a time, as tables and curves: of the inference on kept features, and of trainings."""

from __future__ import annotations

import functools
import json
import math
import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from saai_jax import affinity
from saai_jax.features.store import Features, load
from saai_jax.files import atomic_write
from saai_jax.log import progress
from saai_jax.losses.common import Variant
from saai_jax.ranking import evaluate, results
from saai_jax.ranking.evaluate import Distance, TrialDistances

METRICS = {key: results.HEADINGS[key] for key in ("rank1", "map")}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")  # Okabe and Ito's
MARKERS = "os^Dvp*"
Label = str | int | float
Setting = Any  # an input_pipeline.index.Setting: its trials and rules decide the scores, its labels their name


class Point(NamedTuple):
    """One configuration of a study: where it stands (label), in which line or column (series), and how it does.

    mean, std: percent by metric, over `draws` trials or trainings; std is NaN where one draw cannot tell.
    """

    label: Label
    series: str
    mean: dict[str, float]
    std: dict[str, float]
    draws: int


class Inference(NamedTuple):
    """A distance and, where there is such a form, the same for all trials together, which is faster."""

    distance: Distance
    together: TrialDistances | None = None


def load_or_make(file: str | os.PathLike, *commands: Sequence[str]) -> Features:
    """A features file, which the commands make first if it is not there. Raises CalledProcessError if one fails."""
    if not os.path.exists(file):
        for command in commands:
            subprocess.run(command, check=True)
    return load(file)


def study(
    features: Mapping[str, Features], settings: Sequence[Setting], inferences: Mapping[Label, Inference]
) -> list[Point]:
    """Every inference on every set of features, in every setting; the deviations are those over the trials.

    Labels name the features too if there are several. Raises ValueError for features that are of other images than
    the first ones.
    """
    first = next(iter(features.values()))
    for name, other in features.items():
        if not np.array_equal(other.path, first.path):
            raise ValueError(f"the features {name!r} are not of the same images, in the same order, as the first ones")
    plans = [(n, f, label, how, s) for n, f in features.items() for label, how in inferences.items() for s in settings]
    points = []
    for name, kept, label, inference, setting in progress(plans, total=len(plans), description="study"):
        label = f"{name}, {label}" if len(features) > 1 else label
        series = _series(setting.protocol, setting.direction, setting.shots)
        of = kept.embedding, kept.identity, kept.camera, setting.trials, setting.valid, inference.distance
        rules = {"unique_identities": setting.unique_identities, "together": inference.together}
        points.append(_point(label, series, evaluate.score_trials(*of, **rules), ddof=0))
    return points


def steps(*, k1: int, k2: int, variant: Variant = "released") -> dict[Label, Inference]:
    """Table 6: AIM without its two steps, with either, with both."""
    names = {"AIM⁻": (False, False), "removing": (True, False), "expanding": (False, True), "both": (True, True)}
    return {name: _aim(k1=k1, k2=k2, variant=variant, remove=r, expand=e) for name, (r, e) in names.items()}


def over_k1(values: Sequence[int], *, k2: int, variant: Variant = "released") -> dict[Label, Inference]:
    """Supplement, Figure 3: AIM that keeps so many affinities of a row."""
    return {k1: _aim(k1=k1, k2=k2, variant=variant) for k1 in values}


def over_k2(values: Sequence[int], *, k1: int, variant: Variant = "released") -> dict[Label, Inference]:
    """Supplement, Figure 4: AIM that averages so many neighbours."""
    return {k2: _aim(k1=k1, k2=k2, variant=variant) for k2 in values}


def methods(*, k1: int, k2: int) -> dict[Label, Inference]:
    """Table 5 and supplement, Table 1: cosine distance, SIM with its defaults here and its parts alone, AIM."""
    cosine = Inference(affinity.cosine, affinity.cosine_trials)
    of_sim = {"SGR": sim(mutual=False), "MNNR": sim(graph=False), "SIM": sim()}
    return {"cosine": cosine, **of_sim, "AIM": _aim(k1=k1, k2=k2)}


def variants(*, k1: int, k2: int) -> dict[Label, Inference]:
    """AIM as the published figures were made, and as Eq. 10 is printed."""
    return {name: _aim(k1=k1, k2=k2, variant=name) for name in ("released", "paper")}


def sim(**how: Any) -> Inference:
    """SIM with these arguments of `affinity.sim`."""
    return Inference(functools.partial(affinity.sim, **how))


def _aim(**how: Any) -> Inference:
    return Inference(functools.partial(affinity.aim, **how), functools.partial(affinity.aim_trials, **how))


def finished(file: str | os.PathLike, config: Mapping[str, Any]) -> bool:
    """Whether the results file is there and of this configuration, given as plain values.

    A run counts its classes itself, so model.identities may differ. Raises ResultsError for a damaged file.
    """

    def comparable(tree: Mapping[str, Any]) -> Any:
        model = {key: value for key, value in tree.get("model", {}).items() if key != "identities"}
        return json.loads(json.dumps({**tree, "model": model}))

    if not os.path.exists(file):
        return False
    kept = results.read(file).get("config")
    return isinstance(kept, Mapping) and comparable(kept) == comparable(config)


def trained(files: Mapping[Label, Sequence[str | os.PathLike]]) -> list[Point]:
    """A study from the results files of its runs, by label and seed; the deviations (ddof 1) are those over the seeds.

    A series is a setting ranked by an inference. Raises ResultsError for a file that cannot be read, and one that
    has other rows than the first seed's.
    """
    points = []
    for label, of_seeds in files.items():
        tables = [{_series(*(r[key] for key in SERIES)): r for r in results.read(f)["rows"]} for f in of_seeds]
        for file, table in zip(of_seeds, tables, strict=True):
            if table.keys() != tables[0].keys():
                odd = ", ".join(sorted(table.keys() ^ tables[0].keys()))
                raise results.ResultsError(f"{file}: has other rows than {of_seeds[0]}: {odd}")
        points += [_point(label, name, [table[name] for table in tables], ddof=1) for name in tables[0]]
    return points


SERIES = ("protocol", "direction", "shots", "inference")


def _series(*words: str) -> str:
    return " ".join(word for word in words if word != "-")


def _point(label: Label, series: str, draws: Sequence[Mapping[str, float]], *, ddof: int) -> Point:
    values = {key: np.array([draw[key] for draw in draws], np.float64) for key in METRICS}
    mean = {key: float(value.mean()) for key, value in values.items()}
    std = {key: float(value.std(ddof=ddof)) if len(draws) > ddof else float("nan") for key, value in values.items()}
    return Point(label, series, mean, std, len(draws))


def _brief(series: Sequence[str]) -> dict[str, str]:
    """The series without the words that all of them have; a single one keeps its name."""
    names = list(dict.fromkeys(series))
    shared = set.intersection(*(set(name.split()) for name in names)) if len(names) > 1 else set()
    return {name: " ".join(word for word in name.split() if word not in shared) for name in names}


def table(points: Sequence[Point], title: str, width: float = math.inf) -> str:
    """The study in Markdown: a row a label, two columns a series, 'mean ± deviation' in percent.

    Series beyond `width` characters follow in further tables.
    """
    names, labels = _brief([p.series for p in points]), list(dict.fromkeys(p.label for p in points))
    cells = {(p.label, p.series, key): _cell(p.mean[key], p.std[key]) for p in points for key in METRICS}
    tables: list[str] = []
    for number in range(len(names), 0, -1):
        tables = []
        for start in range(0, len(names), number):
            columns = [(series, key) for series in list(names)[start : start + number] for key in METRICS]
            lines = [[title, *(f"{names[series]}: {METRICS[key]}" for series, key in columns)]]
            lines += [[str(label), *(cells.get((label, *column), "") for column in columns)] for label in labels]
            tables.append(results.aligned(lines, 1, markdown=True))
        if max(len(text.split("\n", 1)[0]) for text in tables) <= width:
            break
    return "\n\n".join(tables)


def _cell(mean: float, std: float) -> str:
    return f"{mean:.2f}" if np.isnan(std) else f"{mean:.2f} ± {std:.2f}"


def chart(points: Sequence[Point], axis: str) -> Figure:
    """The study as two panels, rank-1 and mAP: lines where the labels are numbers, else points; bars are deviations.

    Labels stand at equal distances, as in the paper's figures, whatever numbers they are.
    """
    labels, names = list(dict.fromkeys(p.label for p in points)), _brief([p.series for p in points])
    numeric = not any(isinstance(label, str) for label in labels)
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, (key, metric) in zip(figure.subplots(1, 2), METRICS.items(), strict=True):
        for i, (series, name) in enumerate(names.items()):
            mine = [p for p in points if p.series == series]
            # beside each other, or the bars of two series with the same mean would be one
            shift = (i - (len(names) - 1) / 2) * (0.04 if numeric else min(0.12, 0.8 / len(names)))
            x, y = [labels.index(p.label) + shift for p in mine], [p.mean[key] for p in mine]
            bars = np.nan_to_num([p.std[key] for p in mine])
            style = {"color": COLOURS[i % len(COLOURS)], "linestyle": "-" if numeric else "none", "linewidth": 1.3}
            style |= {"marker": MARKERS[(i + i // len(COLOURS)) % len(MARKERS)], "markersize": 5, "capsize": 2.5}
            axes.errorbar(x, y, yerr=bars, label=name, **style)
        names_long = max(len(str(label)) for label in labels) > 12
        turned = {"rotation": 20, "ha": "right", "rotation_mode": "anchor"} if names_long else {}
        axes.set_xticks(range(len(labels)), [str(label) for label in labels], **turned)
        axes.set(xlabel=axis, ylabel="percent", title=metric)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    if len(names) > 1:
        figure.legend(*figure.axes[0].get_legend_handles_labels(), frameon=False, loc="outside right center")
    return figure


def write(folder: str | os.PathLike, name: str, points: Sequence[Point], title: str) -> str:
    """Writes <name>.md, .json, .png and .svg of a study into the folder; gives the table, for a screen."""
    text = table(points, title)
    figure = chart(points, title)
    file = functools.partial(os.path.join, os.fspath(folder))
    # A deviation that is not known is null: JSON has no NaN.
    known = [p._replace(std={k: None if np.isnan(v) else v for k, v in p.std.items()})._asdict() for p in points]
    for ending, content in (("md", text), ("json", json.dumps(known, indent=1, allow_nan=False))):
        with atomic_write(file(f"{name}.{ending}")) as temporary:
            temporary.write_text(content + "\n", encoding="utf-8")
    for ending in ("png", "svg"):
        figure.savefig(file(f"{name}.{ending}"), dpi=120)
    return table(points, title, 100)

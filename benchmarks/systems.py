"""Fills the measured table of docs/systems.md: python -m benchmarks.systems [WORKDIR ...] [--step [WORD ...]]

A row a word of configs/common.py. WORKDIR: of `--mode=ablate` with the study carriers on the synthetic set, or another
that holds <word>/seed*/results.json: rank-1 and mAP of all-search multi-shot, mean and deviation over the seeds.
--step: a training step of the synthetic set's network, batch 64, of these words or of all: its time (they take turns)
and the memory that XLA plans for it. What a call does not measure stays as the page has it.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax

from benchmarks import ours
from benchmarks.measuring import MIB, in_turn
from configs import common, synthetic, sysu
from modes.building import system_of
from saai_jax.ranking import ablation, results

PAGE = Path(__file__).parent.parent / "docs" / "systems.md"
START, END = "<!-- measured -->\n", "<!-- end of measured -->\n"
SETTING, INFERENCES = "sysu-official-all infrared-to-visible multi", {"cosine": "cosine", "AIM": "aim", "SIM": "sim"}
HEAD = ["word", "parameters", "seeds", *INFERENCES, "ms a step", "MiB a step"]
STEPS = 10  # of a turn
Cells = dict[str, str]


def parameters(word: str) -> str:
    """How many are trained, of the SYSU-MM01 model with 395 identities."""
    params, _ = jax.eval_shape(system_of(sysu.get_config(word), 395).init, jax.random.key(0))
    return f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,}"


def scores(word: str, workdirs: Iterable[str]) -> Cells:
    """The cells of a word's results; none without files. Raises ResultsError as `ablation.trained`."""
    files = [file for folder in workdirs for file in sorted(Path(folder, word).glob("seed*/results.json"))]
    points = {point.series: point for point in ablation.trained({word: files})} if files else {}
    found: Cells = {"seeds": str(len(files))} if files else {}
    for name, inference in INFERENCES.items():
        if point := points.get(f"{SETTING} {inference}"):
            found[name] = " / ".join(f"{point.mean[key]:.1f} ± {point.std[key]:.1f}" for key in ablation.METRICS)
    return found


def steps(words: Sequence[str]) -> dict[str, Cells]:
    """The cells of each word's step."""
    calls, memory = {}, {}
    for word in words:
        config = synthetic.get_config(word)
        state, _, lower, given = ours.step_of(config, ours.IDENTITIES["small"])
        batch = jax.device_put(ours.batch_of(64, config.data.height, config.data.width))
        step = lower(state, batch, *given).compile()
        planned = step.memory_analysis()
        memory[word] = (planned.temp_size_in_bytes + planned.argument_size_in_bytes) // MIB
        calls[word] = functools.partial(_run, step, [state], batch, given)
    seconds, *_ = in_turn(calls, 7)
    return {
        word: {"ms a step": f"{1000 * seconds[word] / STEPS:.0f}", "MiB a step": f"{memory[word]}"} for word in words
    }


def _run(step, held: list, batch, given):
    """Steps that go on from the state in `held`, whose memory each takes."""
    for _ in range(STEPS):
        held[0], metrics = step(held[0], batch, *given)
    return metrics


def filled(page: str, found: dict[str, Cells]) -> str:
    """The page with these cells in its table, the others as they were. Raises ValueError for a page without marks."""
    if page.count(START) != 1 or page.count(END) != 1:
        raise ValueError(f"{PAGE}: expected {START.strip()} and {END.strip()} once each, around the table")
    before, rest = page.split(START)
    table, after = rest.split(END)
    old = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines()]
    kept = {cells[0].strip("`"): dict(zip(old[0], cells, strict=True)) for cells in old[2:]}
    rows = [
        [f"`{word}`", *((kept.get(word, {}) | cells).get(name, "not measured") for name in HEAD[1:])]
        for word, cells in found.items()
    ]
    return f"{before}{START}{results.aligned([HEAD, *rows], 1, markdown=True)}\n{END}{after}"


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.systems", description=__doc__.splitlines()[0])
    parser.add_argument("workdir", nargs="*", help="of --mode=ablate with the study carriers")
    parser.add_argument("--step", nargs="*", choices=common.SYSTEMS, help="measure the step of these words, or of all")
    args = parser.parse_args(given)
    measured = steps(args.step or list(common.SYSTEMS)) if args.step is not None else {}
    found = {
        word: {"parameters": parameters(word)} | scores(word, args.workdir) | measured.get(word, {})
        for word in common.SYSTEMS
    }
    page = filled(PAGE.read_text(encoding="utf-8"), found)
    PAGE.write_text(page, encoding="utf-8")
    print(page.split(START)[1].split(END)[0], end="")


if __name__ == "__main__":
    main()

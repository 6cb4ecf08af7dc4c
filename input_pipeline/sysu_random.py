"""SYSU-MM01 with the random galleries of the AGW family, which need no permutation file.

Ye et al., "Deep Learning for Person Re-identification: A Survey and Outlook", PAMI 2021. AGW, LbA, CAJ and DEEN
report this protocol, SAAI, MPANet and IDKL the official one: the galleries differ, and so do the figures.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from input_pipeline import sysu
from input_pipeline.images import raise_all
from input_pipeline.index import INFRARED, DataError, Index, Setting, Trial
from input_pipeline.protocols import draw, refuse_other_counts


def settings(index: Index, *, published: bool = True) -> list[Setting]:
    """All-search and indoor-search, single-shot, 10 trials each; the rules are those of the official settings.

    index may come from a features file, its rows in any order; only the file numbers of its paths are read. Queries
    are all infrared rows in index order. The gallery of trial t holds one image of every identity and visible
    camera, see `protocols.draw`: one missing image changes all that are drawn after it. DataError: no infrared row,
    one of another camera than 3 and 6, gaps in the file numbers and, if published, other numbers of identities,
    images by camera, queries, gallery images and queries with a match than the published ones.
    """
    sysu.refuse_mixed_cameras(index)
    cells = sysu.rows_by_number(index)
    if published:
        raise_all(sysu.size_problems(index, "test", Path("index")))
    query = np.flatnonzero(index.modality == INFRARED).astype(np.int32)
    if not len(query):
        raise DataError("index: no infrared images, expected queries")
    result = []
    for place, cameras in sysu.GALLERY_CAMERAS.items():
        drawn = draw({cell: rows.tolist() for cell, rows in cells.items() if cell[1] in cameras}, sysu.TRIALS)
        trials = [Trial(query, gallery) for gallery in drawn]
        name = f"sysu-random-{place}"
        setting = Setting("sysu", name, "infrared-to-visible", "single", trials, sysu.valid, unique_identities=True)
        if published:
            refuse_other_counts(index, setting, sysu.published_counts(place, 1))
        result.append(setting)
    return result

"""SYSU-MM01 with the random galleries of the AGW family, which need no permutation file.

Ye et al., "Deep Learning for Person Re-identification: A Survey and Outlook", PAMI 2021. AGW, LbA, CAJ and DEEN
report this protocol, SAAI, MPANet and IDKL the official one: the galleries differ, and so do the figures.
"""

from __future__ import annotations

from pathlib import Path

from input_pipeline import sysu
from input_pipeline.images import raise_all
from input_pipeline.index import INFRARED, DataError, Index, Setting
from input_pipeline.protocols import draw


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
    if not (index.modality == INFRARED).any():
        raise DataError("index: no infrared images, expected queries")
    result = []
    for place, cameras in sysu.GALLERY_CAMERAS.items():
        drawn = draw({cell: rows.tolist() for cell, rows in cells.items() if cell[1] in cameras}, sysu.TRIALS)
        result.append(sysu.setting(index, "sysu-random", place, 1, drawn, published))
    return result

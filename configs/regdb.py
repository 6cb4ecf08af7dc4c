"""RegDB, SAAI unless a word names another system; one run a split, the published protocol averages ten.

    for i in 1 2 3 4 5 6 7 8 9 10; do
      python launch.py --config=configs/regdb.py --config.data.root=/data/RegDB --config.data.fold=$i \
          --config.model.weights=resnet50-19c8e357.pth --workdir=workdir/regdb-$i
    done

The mean of ten: each run with --mode=extract too, then --mode=rank with their ten features-test.npz, in the order of
the folds and with commas between them, and --config.eval.protocol=regdb-ten-folds.

Published (AIM): visible to infrared 91.07 rank-1 / 91.45 mAP, infrared to visible 92.09 / 92.01. The released code runs
split 4 alone, which is --config.data.fold=4; the default here is 1.
Ours: not measured, the data set is given out on application.

Presets: released (default) or paper; baseline is the paper's of Table 3; the words of docs/systems.md are other
systems; validate holds a tenth of the training identities out.
"""

from configs import common


def get_config(argument: str | None = None):
    """The experiment with the words of the argument."""
    return common.experiment("regdb", argument)

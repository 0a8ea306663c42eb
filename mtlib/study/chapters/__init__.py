"""One module a notebook: the runs it tells of, and its tables and figures, which `mtlib tables` and `figures` rebuild.

A notebook's cells and the rebuild call the same methods, so there is one way to make each of them.
"""

from mtlib.study.chapters.annealing import Annealing
from mtlib.study.chapters.baseline import Baseline
from mtlib.study.chapters.data import Data
from mtlib.study.chapters.errors import Errors
from mtlib.study.chapters.explore import Explore
from mtlib.study.chapters.methods import Methods
from mtlib.study.chapters.planes import Planes
from mtlib.study.chapters.proximal import Proximal
from mtlib.study.chapters.ranking import Ranking
from mtlib.study.chapters.smart import Adversary

CHAPTERS = {
    "00_data": Data,
    "01_baseline": Baseline,
    "02_annealing": Annealing,
    "03_smart": Adversary,
    "04_mnrl": Ranking,
    "05_bppo": Proximal,
    "06_ensemble": Methods,
    "07_tsne": Planes,
    "08_confusion": Errors,
    "09_explore": Explore,
}
"""The chapter of each notebook."""

"""coco: COCO captions, photos with five English captions each, from a folder of the user's."""

from pathlib import Path

from featcache.data.coco_lists import read_coco
from featcache.data.datasets import DATASETS, missing
from featcache.data.folder import own_dataset
from featcache.data.options import OpenOptions
from featcache.data.views import Dataset


def open_coco(root: Path | None = None, options: OpenOptions | None = None) -> Dataset:
    """Opens COCO's captions from a folder with a list of them and its photos, in a form of `coco_lists`.

    Source:
        Lin et al. 2014, arXiv:1405.0312; Chen et al. 2015, arXiv:1504.00325; splits of Karpathy and Fei-Fei 2015,
        arXiv:1412.2306.
    """
    if root is None:
        raise missing("coco", "no root given", ())
    options = options or OpenOptions()
    return own_dataset("coco", read_coco(root, options), options, licence=DATASETS["coco"].licence)

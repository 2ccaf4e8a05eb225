"""The data sets that there are: names, openers, licences and how to get each.

A new data set is a module beside this one with a function that opens it, and an entry here. Everything else reads this
table: `open_dataset`, `featcache datasets`, the errors that say how to get the data, and the tests that sweep it.

An opener takes the root or None. It raises DataMissing, as `missing` words it, where the data or a listed part is not
there, and DataInvalid, with the row, where files contradict their format or each other.
"""

import shlex
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType

from featcache.data.citations import (
    ALPAYDIN_1998,
    CHEN_2015,
    CHEN_2020,
    ELLIOTT_2016,
    FSDD,
    HUH_2024,
    KARPATHY_2015,
    KRIZHEVSKY_2009,
    LIN_2014,
    OPENMOJI,
    RADFORD_2021,
    RUSSAKOVSKY_2015,
    SRINIVASAN_2021,
    TJANDRASUWITA_2025,
    YOUNG_2014,
)
from featcache.data.declared import Declared, DeclaredFile, read_declared
from featcache.data.entries import DatasetEntry
from featcache.data.errors import DataInvalid, DataMissing
from featcache.data.hub_names import hub_name_of
from featcache.data.perturbations import original_view, perturbation_of

_ENTRIES = (
    DatasetEntry(
        name="openmoji",
        opener="openmoji:open_openmoji",
        description="about 1,180 emoji: drawings, English descriptions, names in 13 more languages, names spoken in 13",
        licence="OpenMoji drawings: CC BY-SA 4.0; names: Unicode CLDR (Unicode licence)",
        views=("images", "captions", "names-*", "speech", "speech-*"),
        needs_root=False,
        takes_root=False,
        labels=("group", "subgroup", "voice"),
        ways=("pip install 'featcache[demo]'", "for the views of speech: pip install 'featcache[speech]'"),
        made_from={"captions": ("group", "subgroup")},  # each ends with the words of its subgroup, as "fruit, food"
        hints_at={
            "names-*": (("group", "subgroup"), "a name may say the group, as in 'face' or 'button'"),
            "speech": (("group", "subgroup"), "a spoken name may say the group, as in 'face' or 'button'"),
            "speech-*": (("group", "subgroup"), "a spoken name may say the group, as in 'face' or 'button'"),
        },
        may_show={
            "images": "drawings: OpenMoji, CC BY-SA 4.0",
            "captions": "descriptions: Unicode CLDR (Unicode licence), emoji-data (MIT licence)",
            "names-*": "names: Unicode CLDR (Unicode licence)",
            "speech": "spoken names: Unicode CLDR (Unicode licence), synthesised by espeak-ng",
            "speech-*": "spoken names: Unicode CLDR (Unicode licence), synthesised by espeak-ng",
        },
        synthesised=("speech", "speech-*"),
        citation=OPENMOJI,
    ),
    DatasetEntry(
        name="flickr30k",
        opener="flickr30k:open_flickr30k",
        description="31,783 photos of people and animals in action, five English captions each",
        licence="non-commercial research and education only; the photos belong to their Flickr users",
        views=("images", "captions", "captions-de", "spoken", "caption-*", "spoken-*"),
        needs_root=False,
        options=("--seconds",),
        ways=(
            "online and without --root: the Parquet files of the Hub repository nlphuji/flickr30k are downloaded "
            "(4.3 GB; needs pip install 'featcache[encoders]')",
            "--root DIR with flickr30k-images/, results_20130124.token (both from "
            "https://shannon.cs.illinois.edu/DenotationGraph/) and dataset_flickr30k.json (in caption_datasets.zip "
            "from https://cs.stanford.edu/people/karpathy/deepimagesent/)",
            "--root DIR with a copy of nlphuji/flickr30k at refs/convert/parquet: DIR/TEST/test/*.parquet",
            "--root DIR with a copy of lmms-lab/flickr30k (DIR/data/*.parquet) beside dataset_flickr30k.json",
            "for the view captions-de, five German captions a photo: data/task2 of https://github.com/multi30k/dataset "
            "in DIR too, or DIR/multi30k.jsonl",
            "for the view spoken, clips of a voice that describes a photo: DIR/spoken/<photo>_<caption>.wav, as in "
            "1000092795_0.wav",
            "for the views spoken-1 to spoken-5, captions synthesised: pip install 'featcache[speech]'",
        ),
        synthesised=("spoken-[1-5]",),
        citation=YOUNG_2014 + KARPATHY_2015 + ELLIOTT_2016,
    ),
    DatasetEntry(
        name="cifar10",
        opener="cifar:open_cifar10",
        description="60,000 photos of 32 x 32 pixels in 10 classes, and 18 prompts a class",
        licence="no licence stated by the authors; cite Krizhevsky 2009",
        views=("images", "prompts"),
        needs_root=True,
        made_from={"prompts": ("class",)},
        ways=(
            "--root DIR with cifar-10-binary.tar.gz, packed or unpacked, from https://www.cs.toronto.edu/~kriz/cifar.html",
        ),
        labels=("class",),
        may_show={"prompts": "prompts: templates of OpenAI's CLIP, MIT licence"},
        citation=KRIZHEVSKY_2009 + RADFORD_2021,
    ),
    DatasetEntry(
        name="cifar100",
        opener="cifar:open_cifar100",
        description="60,000 photos of 32 x 32 pixels in 100 classes of 20 superclasses, and 18 prompts a class",
        licence="no licence stated by the authors; cite Krizhevsky 2009",
        views=("images", "prompts"),
        needs_root=True,
        made_from={"prompts": ("class", "superclass")},
        ways=(
            "--root DIR with cifar-100-binary.tar.gz, packed or unpacked, from https://www.cs.toronto.edu/~kriz/cifar.html",
        ),
        labels=("superclass", "class"),
        may_show={"prompts": "prompts: templates of OpenAI's CLIP, MIT licence"},
        citation=KRIZHEVSKY_2009 + RADFORD_2021,
    ),
    DatasetEntry(
        name="imagenet",
        opener="imagenet:open_imagenet",
        description="photos of the 1,000 ImageNet classes (ILSVRC 2012), from a folder of yours, whole or in part",
        licence="non-commercial research and education only (terms of access at image-net.org)",
        views=("images",),
        needs_root=True,
        ways=(
            "--root DIR with train/<wnid>/*.JPEG and val/<wnid>/*.JPEG, one of the two or both; or <wnid>/*.JPEG "
            "alone, which is the train split",
            "--root DIR as Kaggle's imagenet-object-localization-challenge unpacks: ILSVRC/Data/CLS-LOC/, "
            "LOC_synset_mapping.txt, LOC_val_solution.csv",
            "a flat val/*.JPEG needs its classes: LOC_val_solution.csv, imagenet_2012_validation_synset_labels.txt, or "
            "ILSVRC2012_devkit_t12/ beside it; fewer than 1,000 classes need LOC_synset_mapping.txt, for their numbers",
        ),
        citation=RUSSAKOVSKY_2015,
    ),
    DatasetEntry(
        name="wit_1024",
        opener="wit:open_wit_1024",
        description="1,024 Wikipedia images with captions, the data of the platonic representation hypothesis",
        licence="text CC BY-SA 3.0; each image has its own licence on Wikimedia Commons",
        views=("images", "captions"),
        needs_root=False,
        ways=(
            "online and without --root: the Hub repository minhuh/prh, revision wit_1024, is downloaded "
            "(needs pip install 'featcache[encoders]')",
            "--root DIR with a copy of that revision: DIR/data/*.parquet (columns image, text)",
        ),
        may_show={"captions": "captions: Wikipedia by way of WIT, CC BY-SA 3.0"},
        citation=SRINIVASAN_2021 + HUH_2024,
    ),
    DatasetEntry(
        name="spoken-digits",
        opener="spoken_digits:open_spoken_digits",
        description="1,740 pairs of a digit's image (8 x 8 pixels) and a recording of it, by six speakers",
        licence="recordings: CC BY-SA 4.0; images: UCI Machine Learning Repository, as scikit-learn holds them",
        views=("images", "speech"),
        needs_root=True,
        labels=("digit", "mixed-17", "mixed-33", "mixed-50", "mixed-67", "mixed-83", "speaker"),
        ways=(
            "--root DIR with the recordings, <digit>_<speaker>_<take>.wav, or with recordings/ of them: a copy of "
            "https://github.com/Jakobovski/free-spoken-digit-dataset",
            "the images are in a package: pip install scikit-learn",
        ),
        citation=ALPAYDIN_1998 + FSDD,
    ),
    DatasetEntry(
        name="vggsound",
        opener="vggsound:open_vggsound",
        description="clips of ten seconds of videos with sound, each with a class such as 'playing violin, fiddle'",
        licence="list of clips and labels: CC BY 4.0; the clips belong to those who made the videos",
        views=("images", "audio", "captions"),
        needs_root=True,
        options=("--seconds", "--frames"),
        labels=("label",),
        ways=(
            "--root DIR with vggsound.csv (from https://www.robots.ox.ac.uk/~vgg/data/vggsound/) and the clips you "
            "have, anywhere below DIR, as <id>_<start>.mp4, .webm, .mkv, .wav, .flac, .ogg or .mp3",
        ),
        made_from={"captions": ("label",)},
        may_show={"captions": "labels: VGGSound, CC BY 4.0"},
        citation=CHEN_2020,
    ),
    DatasetEntry(
        name="wit_graded",
        opener="graded_captions:open_wit_graded",
        description="the captions of wit_1024 in eleven grades: ten forms that a language model wrote ever farther off",
        licence="no licence stated; the captions derive from Wikipedia by way of WIT (CC BY-SA 3.0)",
        views=("images", "captions", "captions-grade*"),
        needs_root=True,
        ways=(
            "--root DIR with data.json: the folder perturbed/ of https://github.com/MeganTj/platonic-rep-unique",
            "for the photos, DIR/data/*.parquet or DIR/*.parquet too: the Hub repository minhuh/prh, revision wit_1024",
        ),
        citation=SRINIVASAN_2021 + TJANDRASUWITA_2025,
    ),
    DatasetEntry(
        name="coco",
        opener="coco:open_coco",
        description="COCO captions: photos with five English captions each, as Karpathy or COCO's own files list them",
        licence="captions: CC BY 4.0; the photos belong to their Flickr users (terms at cocodataset.org)",
        views=("images", "captions"),
        needs_root=True,
        takes_options=True,
        ways=(
            "--root DIR with annotations/captions_train2017.json, captions_val2017.json (from "
            "annotations_trainval2017.zip) and the photos, anywhere below DIR: https://cocodataset.org/#download; "
            "2014 as well",
            "--root DIR with dataset_coco.json (Karpathy's splits; in caption_datasets.zip from "
            "https://cs.stanford.edu/people/karpathy/deepimagesent/) and the photos of 2014",
            "a part of the photos: add --allow-missing",
        ),
        may_show={"captions": "captions: COCO Consortium, CC BY 4.0"},
        citation=LIN_2014 + CHEN_2015 + KARPATHY_2015,
    ),
    DatasetEntry(
        name="folder",
        opener="folder:open_folder",
        description="your own data: a folder of images, COCO lists, WebDataset shards or Parquet files, by its path",
        licence="yours",
        views=("images", "captions"),
        needs_root=True,
        takes_options=True,
        ways=(
            "featcache extract ./my_images, or folder:NAME --root ./my_images: images anywhere below it, and if wanted "
            "captions.csv (columns image, caption) or a .txt beside each image; or WebDataset shards, Parquet files "
            "with images, COCO's lists: docs/layouts.md",
        ),
    ),
    DatasetEntry(
        name="hub",
        opener="hub_parquet:open_hub",
        description="a data set of the Hub with images in Parquet or WebDataset: hub:ORG/NAME[:CONFIG][@REVISION]",
        licence="as its card states",
        views=("images", "captions"),
        needs_root=False,
        takes_root=False,
        takes_options=True,
        ways=(
            "online: featcache extract hub:ORG/NAME, or hub:ORG/NAME:CONFIG@REVISION (needs pip install "
            "'featcache[encoders]'); what was downloaded once is found offline",
            "its files in a folder of yours: featcache extract ./DIR (docs/layouts.md)",
        ),
    ),
)


DATASETS = MappingProxyType({entry.name: entry for entry in _ENTRIES})


def declared_datasets() -> DeclaredFile:
    """The user's own entries; one that takes a name of `DATASETS` is not valid.

    Raises:
        DataInvalid: If their file is not TOML, or was named and is not there.
    """
    file = read_declared()
    taken = {
        name: DataInvalid(f"{file.path} declares {name}, which featcache declares too\n  Rename your entry")
        for name in file.entries
        if name in DATASETS
    }
    own = {name: declared for name, declared in file.entries.items() if name not in taken}
    return DeclaredFile(file.path, own, file.invalid | taken)


def declared_dataset(name: str) -> Declared | None:
    """The user's own entry of a name; None where there is none.

    Raises:
        DataInvalid: If it is not valid; of a name that is not packaged, also as `declared_datasets`.
    """
    try:
        file = declared_datasets()
    except DataInvalid:
        if name in DATASETS:
            return None
        raise
    if name in file.invalid:
        raise DataInvalid(str(file.invalid[name]))
    return file.entries.get(name)


def known_entry(name: str) -> DatasetEntry | None:
    """The entry of a data set, packaged or the user's own; None where there is none, or it is not valid."""
    if name in DATASETS:
        return DATASETS[name]
    try:
        own = declared_dataset(name)
    except DataInvalid:  # who opens or probes a data set is told
        return None
    return None if own is None else own.entry


def is_taken(name: str) -> bool:
    """Whether a name is that of a data set, packaged or of the user's own file, valid or not."""
    if name in DATASETS:
        return True
    try:
        file = declared_datasets()
    except DataInvalid:
        return False
    return name in file.entries or name in file.invalid


def source_text(name: str) -> str:
    """What opens a data set that the cache calls so: a name, "hub:ORG/NAME" or "folder:NAME".

    Example:
        >>> source_text("openmoji"), source_text("org--photos"), source_text("stamps")
        ('openmoji', 'hub:org/photos', 'folder:stamps')
    """
    return name if known_entry(name) is not None else hub_name_of(name) or f"folder:{name}"


def missing(name: str, what: str, looked: tuple[str, ...]) -> DataMissing:
    """The error for data that is not there: what was wanted, where it was looked for, every way to get it."""
    lines = [f"{name}: {what}"]
    lines += [f"  Looked at: {place}" for place in looked]
    lines += [f"  To get it: {way}" for way in DATASETS[name].ways]
    return DataMissing("\n".join(lines))


def made_from_labels(dataset: str, view: str) -> tuple[str, ...]:
    """Label columns that the contents of a view are made from; none of a data set that is not in the table.

    Raises:
        DataInvalid: If the user's own entry of that name is not valid, for what it states is not known then.

    Example:
        >>> made_from_labels("cifar100", "prompts"), made_from_labels("cifar100", "images")
        (('class', 'superclass'), ())
    """
    entry, view = known_entry(dataset), original_view(view)
    if entry is None:
        declared_dataset(dataset)
    of = {} if entry is None else entry.made_from
    return tuple(label for pattern, labels in of.items() if fnmatchcase(view, pattern) for label in labels)


def label_hint(dataset: str, view: str, label: str) -> str:
    """How the contents of a view give a label away in part; "" where nothing is known.

    Example:
        >>> label_hint("openmoji", "names-de", "group")
        "a name may say the group, as in 'face' or 'button'"
        >>> label_hint("openmoji", "speech-voice-redundant40-s0", "group")
        'its voices were chosen to, 40 % of them'
    """
    entry, known = known_entry(dataset), perturbation_of(view)
    if known is not None and known[1].tells(entry.labels if entry else (), label):
        return f"its voices were chosen to, {known[1].percent} % of them"
    view = original_view(view)
    of = {} if entry is None else entry.hints_at
    hints = (how for pattern, (labels, how) in of.items() if label in labels and fnmatchcase(view, pattern))
    return next(hints, "")


def is_synthesised(dataset: str, view: str) -> bool:
    """Whether the rows of a view are spoken from texts of the data set, so that they bring nothing that no text says.

    Example:
        >>> [is_synthesised("flickr30k", view) for view in ("spoken-2", "spoken", "captions")]
        [True, False, False]
        >>> is_synthesised("openmoji", "speech-voice-unique40-s0")
        True
    """
    entry = known_entry(dataset)
    return entry is not None and any(fnmatchcase(original_view(view), one) for one in entry.synthesised)


def credit_of(dataset: str, view: str) -> str:
    """The line that credits a view where others see its contents; "" where the data's licence lets nobody show them.

    Example:
        >>> credit_of("cifar10", "prompts"), credit_of("flickr30k", "captions"), credit_of("stamps", "images")
        ("prompts: templates of OpenAI's CLIP, MIT licence", '', '')
    """
    entry = known_entry(dataset)
    of = {} if entry is None else entry.may_show
    return next((line for pattern, line in of.items() if fnmatchcase(view, pattern)), "")


def extract_command(dataset: str, encoder: str = "ENCODER", *, view: str = "", root: Path | None = None) -> str:
    """The command that extracts a data set of this name, as the cache has it: a folder of the user's needs its root.

    Example:
        >>> extract_command("openmoji", "minilm", view="names-de"), extract_command("stamps", "minilm")
        ('featcache extract openmoji minilm --view names-de', 'featcache extract folder:stamps minilm --root DIR')
    """
    entry, text = known_entry(dataset), source_text(dataset)
    words = ["featcache extract", text, encoder]
    words += [f"--view {view}"] if view else []
    if root is not None or (text.startswith("folder:") if entry is None else entry.needs_root):
        words.append(f"--root {shlex.quote(str(root)) if root else 'DIR'}")
    return " ".join(words)

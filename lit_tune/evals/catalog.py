"""The named evaluations: what each is called, where its data lies, what is measured, which group it counts for.

Names, main metrics, sizes, chance levels: `tasklist.yml` of github.com/mlfoundations/datacomp (MIT); the groups:
`aggregate_scores.py` there. FairFace and UTKFace have no main metric and count for no average.
"""

import difflib
from dataclasses import dataclass

from lit_tune.errors import ConfigError, explain

IMAGENET, SHIFTS, VTAB, RETRIEVAL = "ImageNet", "ImageNet dist. shifts", "VTAB", "Retrieval"
GROUPS = (IMAGENET, SHIFTS, VTAB, RETRIEVAL)  # and the average over all


@dataclass(frozen=True)
class Task:
    """One named evaluation.

    Attributes:
        name: what is typed, and stands in `val/<name>/...`.
        key: DataComp's key of it; "" where it has none.
        title: DataComp's name of it, which its aggregation reads.
        kind: one of `evaldata.dataset.KINDS`.
        size: pictures of the published split.
        main_metric: the one that counts for averages; "" where there is none.
        group: of GROUPS, or "".
        chance: of the main metric, as DataComp states it; None where it does not.
        fields: names of the columns of `EvalData.fields`.
        names: clip-benchmark's name of the data set, for class names and templates that lie in that package.
        folders: names of its folder below the data root, the first that is there is read.
    """

    name: str
    key: str
    title: str
    kind: str
    size: int
    main_metric: str = "acc1"
    group: str = ""
    chance: float | None = None
    fields: tuple[str, ...] = ()
    names: str = ""
    folders: tuple[str, ...] = ()


def _wds(name: str) -> tuple[str, ...]:
    """The folders that DataComp's and clip_benchmark's downloads give a data set."""
    return (f"wds_{name.replace('/', '-')}_test", f"wds_{name.replace('/', '-')}", name.replace("/", "-"))


def _classes(
    name: str, key: str, title: str, size: int, chance: float | None, main_metric: str = "acc1", group: str = "",
    kind: str = "classification", fields: tuple[str, ...] = (), names: str = "",
) -> Task:  # fmt: skip
    """A task over a folder of webdataset shards with class names."""
    folders = tuple(dict.fromkeys((*_wds(key.removeprefix("fairness/")), name)))
    return Task(name, key, title, kind, size, main_metric, group, chance, fields, names or key, folders)


RECALL = "mean_per_class_recall"
DATACOMP = (
    _classes("caltech101", "vtab/caltech101", "Caltech-101", 6085, 0.009804, RECALL, VTAB),
    _classes("cifar10", "cifar10", "CIFAR-10", 10000, 0.1),
    _classes("cifar100", "vtab/cifar100", "CIFAR-100", 10000, 0.01, group=VTAB),
    _classes("clevr_count_all", "vtab/clevr_count_all", "CLEVR Counts", 15000, 0.125061, group=VTAB),
    _classes("clevr_closest_object_distance", "vtab/clevr_closest_object_distance", "CLEVR Distance", 15000, 0.190520,
             group=VTAB),
    _classes("country211", "country211", "Country211", 21100, 0.004739),
    _classes("dtd", "vtab/dtd", "Describable Textures", 1880, 0.021277, group=VTAB),
    _classes("eurosat", "vtab/eurosat", "EuroSAT", 5400, 0.101483, group=VTAB),
    _classes("fgvc_aircraft", "fgvc_aircraft", "FGVC Aircraft", 3333, 0.01, RECALL),
    _classes("food101", "food101", "Food-101", 25250, 0.009901),
    _classes("gtsrb", "gtsrb", "GTSRB", 12630, 0.037604),
    _classes("imagenet", "imagenet1k", "ImageNet 1k", 50000, 0.001, group=IMAGENET),
    _classes("imagenet_sketch", "imagenet_sketch", "ImageNet Sketch", 50889, 0.001, group=SHIFTS),
    _classes("imagenetv2", "imagenetv2", "ImageNet v2", 10000, 0.001, group=SHIFTS),
    _classes("imagenet-a", "imagenet-a", "ImageNet-A", 7500, 0.008056, group=SHIFTS),
    _classes("imagenet-o", "imagenet-o", "ImageNet-O", 2000, 0.006047, group=SHIFTS),
    _classes("imagenet-r", "imagenet-r", "ImageNet-R", 30000, 0.006163, group=SHIFTS),
    _classes("kitti", "vtab/kitti_closest_vehicle_distance", "KITTI Vehicle Distance", 711, 0.295289, group=VTAB),
    _classes("mnist", "mnist", "MNIST", 10000, 0.100350),
    _classes("objectnet", "objectnet", "ObjectNet", 18574, 0.009481, group=SHIFTS),
    _classes("flowers", "vtab/flowers", "Oxford Flowers-102", 6149, 0.009804, RECALL, VTAB),
    _classes("pets", "vtab/pets", "Oxford-IIIT Pet", 3669, 0.027027, RECALL, VTAB),
    # DataComp holds one object a picture here (14,976 crops), so it is a classification and not multilabel
    _classes("voc2007", "voc2007", "Pascal VOC 2007", 14976, 0.154038),
    _classes("pcam", "vtab/pcam", "PatchCamelyon", 32768, 0.5, group=VTAB),
    _classes("renderedsst2", "renderedsst2", "Rendered SST2", 1821, 0.500001),
    _classes("resisc45", "vtab/resisc45", "RESISC45", 6300, 0.022342, group=VTAB),
    _classes("cars", "cars", "Stanford Cars", 8041, 0.005160),
    _classes("stl10", "stl10", "STL-10", 8000, 0.1),
    _classes("sun397", "sun397", "SUN397", 108754, 0.004645, group=VTAB),
    _classes("svhn", "vtab/svhn", "SVHN", 26032, 0.117897, group=VTAB),
    # tasklist.yml lists 31,014 pictures for Flickr; the set that is read there is the test split of 1,000
    Task("flickr30k", "retrieval/flickr_1k_test_image_text_retrieval", "Flickr", "retrieval", 1000, "mean_recall@1",
         RETRIEVAL, folders=("wds_flickr30k_test", "wds_flickr30k", "flickr30k",
                             "hf_cache/nlphuji___flickr_1k_test_image_text_retrieval")),
    Task("coco", "retrieval/mscoco_2014_5k_test_image_text_retrieval", "MSCOCO", "retrieval", 5000, "mean_recall@1",
         RETRIEVAL, folders=("wds_mscoco_captions_test", "wds_mscoco_captions", "wds_coco", "coco",
                             "hf_cache/nlphuji___mscoco_2014_5k_test_image_text_retrieval")),
    Task("winogavil", "misc/winogavil", "WinoGAViL", "association", 3563, "jaccard_score_10-12", RETRIEVAL, 0.205,
         folders=("winogavil", "hf_cache/nlphuji___winogavil")),
    _classes("iwildcam", "wilds/iwildcam", "iWildCam", 42791, 0.143056, "F1-macro_all", fields=(
        "location", "sequence", "year", "month", "day", "hour", "minute", "second", "y")),
    _classes("camelyon17", "wilds/camelyon17", "Camelyon17", 85054, 0.5, fields=("hospital", "slide", "y")),
    _classes("fmow", "wilds/fmow", "FMoW", 22108, 0.027193, "acc_worst_region", fields=("region", "year", "y")),
    _classes("dollar_street", "fairness/dollar_street", "Dollar Street", 3503, None, "acc_top5_wg", fields=(
        "income_ds", "income_meta", "region")),
    _classes("geode", "fairness/geode", "GeoDE", 12488, None, "acc_wg", fields=("region", "country")),
    _classes("fairface", "fairness/fairface", "FairFace", 10954, None, "", kind="attributes", fields=(
        "age", "gender", "race", "race_binary")),
    _classes("utkface", "fairness/utkface", "UTKFace", 23703, None, "", kind="attributes", fields=(
        "age", "gender", "race", "race_binary")),
)  # fmt: skip
TASKS = {task.name: task for task in DATACOMP}
SUITES = {"datacomp38": tuple(task.name for task in DATACOMP if task.main_metric),
          "datacomp": tuple(TASKS)}  # with the two that have no main metric  # fmt: skip


def expand(name: str) -> tuple[Task, ...]:
    """The tasks that a name on the command line stands for: one, or those of a suite.

    Raises:
        ConfigError: there is no such name.
    """
    if name in SUITES:
        return tuple(TASKS[one] for one in SUITES[name])
    if name in TASKS:
        return (TASKS[name],)
    by_key = {task.key: task for task in DATACOMP}
    if name in by_key:
        return (by_key[name],)
    near = difflib.get_close_matches(name, [*SUITES, *TASKS, *by_key], n=1)
    raise ConfigError(explain("--tasks", expected="a name such as imagenet, flickr30k, coco, datacomp38, or NAME=DATA",
                              found=repr(name),
                              do=f"did you mean {near[0]}?" if near else "docs/evaluation.md says where the names are"))

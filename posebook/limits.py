"""Where a network is worse, and for whom: answers image by image, what is known about each image of people, groups of
images, and a comparison of every group with the rest that knows about subjects and about how many groups were asked.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from posebook import geometry, metrics
from posebook.datasets import PoseDataset, crop_image
from posebook.datasets.base import CROP, ENLARGE
from posebook.datasets.people import RESTORE, find_shards, people_folder, read_shard
from posebook.files import reading
from posebook.networks import PoseNetwork
from posebook.skeleton import ABSENT, H36M17, OCCLUDED
from posebook.targets import Coordinates

THRESHOLD = 0.2
"""Of the torso diameter: nearer than this, a joint is found."""
THIRDS = {
    "skin": ("dark", "medium", "light"), "age": ("young", "middle", "old"), "weight": ("light", "middle", "heavy"),
    "muscle": ("little", "middle", "much"), "height": ("short", "middle", "tall"),
    "proportions": ("low", "middle", "high"),
    "unlike the mean pose": ("little", "middle", "much"), "hidden joints": ("few", "some", "many"),
    "closeness": ("far", "middle", "close"),
    "camera": ("low", "middle", "high"), "brightness": ("dark", "middle", "bright"),
    "contrast": ("low", "middle", "high"), "surroundings": ("plain", "middle", "busy")}
"""Traits that are numbers, and the words for their low, middle and high third."""
NAMED = ("sex", "action", "head", "facing", "thing in the way", "bystander", "cut off", "motion blur", "background")
"""Traits that are words."""
PERSON = ("skin", "sex", "skin and sex", "age", "weight", "muscle", "height", "proportions")
"""Traits that all pictures of a subject share."""
FEWEST_SUBJECTS, FEWEST_IMAGES = 10, 20
"""A smaller group is not judged: the bootstrap over a handful of subjects cannot be trusted."""
LEAST = 0.02
"""A difference in PCK below this is not called one, however sure it is."""


def answers(predicted: np.ndarray, data: PoseDataset) -> dict:
    """What a record keeps of predictions (N, J, 2) in source pixels, image by image.

    Returns:
        "found": a string for each image with one character a joint: 1 within `THRESHOLD` torso diameters of the truth,
        0 farther away, - not counted (no label, or no torso to measure with); "error" and "error_box": the mean
        distance of its labelled joints from the truth over the torso diameter, and over the longer side of the box
        around the joints; NaN where there is none.
    """
    true, state = data.source_joints, data.state
    torso = metrics.torso_diameter(true, state, data.skeleton)
    labelled = state != ABSENT
    away = np.where(labelled, np.linalg.norm(np.asarray(predicted, float) - true, axis=-1), np.nan)
    relative = away / np.where(torso > 0, torso, np.nan)[:, None]
    found = np.where(np.isnan(relative), "-", np.where(relative <= THRESHOLD, "1", "0"))
    longer = np.array([np.ptp(joints[some], axis=0).max() for joints, some in zip(true, labelled, strict=True)])
    return {"found": ["".join(row) for row in found], "error": _mean_known(relative).round(4),
            "error_box": _mean_known(away / longer[:, None]).round(4)}


def _mean_known(values: np.ndarray) -> np.ndarray:
    """(N,) mean along each row of what is not NaN; NaN where nothing is."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(axis=1) / known.sum(axis=1)


def read_found(found: Sequence[str]) -> np.ndarray:
    """(N, J) float: 1 found, 0 not, NaN not counted, of the strings that `answers` writes. The mean along a row is the
    image's PCK@0.2.

    Raises:
        ValueError: for other characters, or strings of different lengths.
    """
    if len({len(row) for row in found}) != 1 or set("".join(found)) - set("01-"):
        raise ValueError("each image needs a string of the same length, of the characters 0, 1 and -")
    meaning = {"0": 0.0, "1": 1.0, "-": np.nan}
    return np.array([[meaning[mark] for mark in row] for row in found])


def pck(found: np.ndarray) -> np.ndarray:
    """(N,) PCK of each image, of what `read_found` returns."""
    return _mean_known(found)


@torch.no_grad()
def predict_in_boxes(network: PoseNetwork, codec: Coordinates, pictures: Sequence[np.ndarray],
                     boxes: np.ndarray) -> np.ndarray:
    """Joints (N, J, 2) in pixels of pictures (H, W, 3) uint8, each for the person in its tight box (N, 4): as many
    calls of `training.predict_pose` at once.

    Raises:
        ValueError: if there is not one usable box for each picture.
    """
    boxes = np.asarray(boxes, np.float32)
    if boxes.shape != (len(pictures), 4):
        raise ValueError(f"{len(pictures)} pictures need boxes of shape {(len(pictures), 4)}, not {boxes.shape}")
    size = network.config.crop
    squares = [geometry.square_box(geometry.check_box(box, picture.shape[1], picture.shape[0]), ENLARGE)
               for box, picture in zip(boxes, pictures, strict=True)]
    crops = np.stack([crop_image(p, s, size).transpose(2, 0, 1) for p, s in zip(pictures, squares, strict=True)])
    network.eval()
    joints = [codec.decode(network(torch.from_numpy(some).to(network.device).float() / 255)["regression"]).cpu().numpy()
              for some in np.array_split(crops, -(-len(crops) // 256))]
    back = np.stack([geometry.invert(geometry.crop_matrix(square, size)) for square in squares])
    return geometry.transform(back, np.concatenate(joints))


# ------------------------------------------------------------------------------------- what is known about a picture


def traits(data: PoseDataset, mean_pose: np.ndarray, folder: str | Path | None = None) -> dict[str, np.ndarray]:
    """What is known about each image of people: numbers (`THIRDS`) and words (`NAMED`).

    Of the subject: skin is the lightness L* (0 to 100) of the skin's colour; age, weight, muscle, height and
    proportions are MakeHuman's parameters, 0 to 1; sex is the side of 0.5 that its parameter lies on. Of the pose:
    the action; where the head end of the torso points in the picture (up, aside or down); the side that faces the
    camera; the mean distance from the mean pose, over the side of the box. Of the picture: its difficulties; the share
    of labelled joints that is hidden; the angle in degrees that the person fills (closeness: the wider, the stronger
    the perspective); the camera's elevation over her in degrees; the mean grey of her pixels, 0 to 255 (brightness),
    its distance from the mean grey around her in the crop (contrast), and the standard deviation there (surroundings).
    (All people have about the same size in pixels: the pictures were cut so.)

    Args:
        data: from `load_people` with parts, labelled with H36M17; mean_pose: (17, 2) of the training set
            (`floors.mean_pose`); folder: of the files that `data` was read from, default the embedded ones.

    Raises:
        ValueError: if `data` is something else.
    """
    if data.name != "people" or data.skeleton.name != "H36M17" or data.parts is None:
        raise ValueError("traits are known of people, loaded with parts=True and labelled with H36M17; this is "
                         f"{data.name} with {data.skeleton.name} and {'no ' if data.parts is None else ''}parts")
    rows = _rows(data, Path(folder or people_folder()))
    effects = [set(text.split()) for text in data.groups["effects"]]
    known = {**_of_person(rows["look"]), "action": data.groups["action"].astype(str),
             "background": data.groups["background"].astype(str), **_of_pose(data, mean_pose),
             **_of_view(data, rows["view"]), **_of_pixels(data)}
    for name, effect in (("thing in the way", "things"), ("bystander", "others"), ("cut off", "cut"),
                         ("motion blur", "blur")):
        known[name] = np.array(["yes" if effect in some else "no" for some in effects])
    return known


def known_from_files(split: str, folder: str | Path | None = None) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Those of the `traits` for which no picture has to be decoded, the subject's and where the head points, of all
    images of a split of people; and the subject (N,) of each. Errors: those of `read_shard`."""
    rows = [_read_looks(path, "joints3d", "subject") for path in find_shards(split, folder)]
    look, joints, subject = (np.concatenate([np.asarray(row[name]) for row in rows])
                             for name in ("look", "joints3d", "subject"))
    return {**_of_person(look), "head": _head(joints.reshape(len(joints), -1, 3))}, subject


SHAPE = ("male", "old", "muscle", "weight", "height", "proportions")
"""What is taken of a subject's look beside the colour of her skin."""


def _read_looks(path: Path, *columns: str) -> dict:
    """Columns of a file of people, and its looks (N, 9): red, green and blue of the skin, and `SHAPE`."""
    rows = read_shard(path, ("look", *columns))
    with reading(path, RESTORE, "as people with their looks"):
        looks = [json.loads(text) for text in rows["look"]]
        numbers = [[*look["skin"], *(look["shape"][name] for name in SHAPE)] for look in looks]
        return {**rows, "look": np.array(numbers, float).reshape(len(looks), 3 + len(SHAPE))}


def _of_person(looks: np.ndarray) -> dict[str, np.ndarray]:
    """Traits of the subject, from `_read_looks`."""
    shape = dict(zip(SHAPE, looks[:, 3:].T, strict=True))
    return {"skin": lightness(looks[:, :3]), "age": shape["old"],
            **{name: shape[name] for name in ("weight", "muscle", "height", "proportions")},
            "sex": np.where(shape["male"] > 0.5, "male", "female")}


def _head(joints3d: np.ndarray) -> np.ndarray:
    """(N,) where the head end of the torso points in the picture, of H36M17 joints (N, 17, 3)."""
    up = joints3d[:, H36M17.index("neck")] - joints3d[:, H36M17.index("pelvis")]
    tilt = np.degrees(np.arctan2(np.abs(up[:, 0]), -up[:, 1]))              # 0 up in the picture, 180 down
    return np.select([tilt < 45, tilt > 135], ["up", "down"], "aside")


def _rows(data: PoseDataset, folder: Path) -> dict[str, np.ndarray]:
    """The columns look and view of the images, in their order."""
    stems = np.array([name.rpartition("-")[0] for name in data.ids])
    numbers = np.array([int(name.rpartition("-")[2]) for name in data.ids])
    look, view = np.empty((len(data), 3 + len(SHAPE))), np.empty((len(data), 6))
    for stem in np.unique(stems):
        here = stems == stem
        columns = _read_looks(folder / f"{stem}.parquet", "view")
        look[here], view[here] = columns["look"][numbers[here]], columns["view"][numbers[here]]
    return {"look": look, "view": view}


def lightness(colour: np.ndarray) -> np.ndarray:
    """CIE L* (...), 0 black to 100 white, of sRGB colours (..., 3) in [0, 1]."""
    colour = np.asarray(colour, float)
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    y = linear @ [0.2126, 0.7152, 0.0722]
    return 116 * np.where(y > (6 / 29) ** 3, np.cbrt(y), y / (3 * (6 / 29) ** 2) + 4 / 29) - 16


def _of_pose(data: PoseDataset, mean_pose: np.ndarray) -> dict[str, np.ndarray]:
    labelled = data.state != ABSENT
    away = np.where(labelled, np.linalg.norm(data.joints - mean_pose, axis=-1), np.nan)
    side = np.array([np.ptp(joints[some], axis=0).max() for joints, some in zip(data.joints, labelled, strict=True)])
    point = {name: data.need("joints3d")[:, data.skeleton.index(name)] for name in
             ("pelvis", "neck", "left_shoulder", "right_shoulder")}
    up = point["neck"] - point["pelvis"]
    front = np.cross(point["left_shoulder"] - point["right_shoulder"], up)
    towards = (_unit(front) * _unit(-point["pelvis"])).sum(axis=1)          # cosine between the chest and the camera
    return {"unlike the mean pose": _mean_known(away) / side,
            "head": _head(data.need("joints3d")),
            "facing": np.select([towards > 0.5, towards < -0.5], ["front", "back"], "side"),
            "hidden joints": (data.state == OCCLUDED).sum(axis=1) / labelled.sum(axis=1)}


def _of_view(data: PoseDataset, view: np.ndarray) -> dict[str, np.ndarray]:
    from scipy.spatial.transform import Rotation
    scale = data.to_source[:, 0, 0]
    labelled = data.state != ABSENT
    side = scale * [np.ptp(joints[some], axis=0).max() for joints, some in zip(data.joints, labelled, strict=True)]
    above = Rotation.from_rotvec(view[:, :3]).apply([0.0, 1, 0])            # the world's up as the camera sees it
    pelvis = data.need("joints3d")[:, data.skeleton.index("pelvis")]
    return {"closeness": np.degrees(2 * np.arctan(side / 2 / data.need("camera")[:, 0, 0])),
            "camera": np.degrees(np.arcsin((above * _unit(-pelvis)).sum(axis=1)))}


def _of_pixels(data: PoseDataset) -> dict[str, np.ndarray]:
    edge = (data.images.shape[-1] - CROP * data.images.shape[-1] // 80) // 2
    inner = slice(edge, data.images.shape[-1] - edge)                       # what the network sees
    grey = data.images[:, :, inner, inner].transpose(0, 2, 3, 1) @ np.array([0.299, 0.587, 0.114], np.float32)
    person = data.need("parts")[:, inner, inner] > 0
    own, around = (_mean_known(np.where(mask, grey, np.nan).reshape(len(grey), -1)) for mask in (person, ~person))
    squared = _mean_known(np.where(person, np.nan, (grey - around[:, None, None]) ** 2).reshape(len(grey), -1))
    return {"brightness": own, "contrast": np.abs(own - around), "surroundings": np.sqrt(squared)}


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


# ------------------------------------------------------------------------------------------- groups, and judging them


def cut_points(known: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Trait -> (2,) where its thirds meet. Taken from the training set, they are fixed before a test image is seen."""
    return {name: np.nanquantile(known[name], [1 / 3, 2 / 3]) for name in THIRDS if name in known}


def group(known: dict[str, np.ndarray], cuts: dict[str, np.ndarray]) -> dict[tuple[str, str], np.ndarray]:
    """(trait, group) -> (N,) bool which images belong to it: thirds of numbers, one group for each word, and the six
    pairs of skin and sex. A value on a cut belongs to the upper group, NaN to none."""
    found: dict[tuple[str, str], np.ndarray] = {}
    for name, words in THIRDS.items():
        if name in known:
            third = np.where(np.isfinite(known[name]), np.searchsorted(cuts[name], known[name], side="right"), -1)
            found |= {(name, word): third == k for k, word in enumerate(words)}
    for name in NAMED:
        if name in known:
            found |= {(name, str(word)): known[name] == word for word in np.unique(known[name])
                      if word != "no"}                                     # a group against the rest says both
    if ("skin", "dark") in found and "sex" in known:
        found |= {("skin and sex", f"{tone}, {sex}"): found["skin", tone] & found["sex", sex]
                  for tone in THIRDS["skin"] for sex in ("female", "male") if ("sex", sex) in found}
    return found


def against_rest(values: np.ndarray, members: np.ndarray, subjects: np.ndarray, repeats: int = 4000,
                 seed: int = 0) -> dict[str, np.ndarray]:
    """Every group against all other images, by a bootstrap over subjects.

    Images of one subject share her body and clothes, so whole subjects are drawn, with all of their images.

    Args:
        values: (N,) a number for each image, such as its PCK; NaN images do not count. members: (N, G) bool.
        subjects: (N,) whom each image shows.

    Returns:
        Arrays (G,): "mean" of the group; "difference" of its mean and the rest's; "low", "high": a 95 % percentile
        interval of it; "se": its standard error; "p": two-sided, from difference / se as a normal number; "images" and
        "subjects" in the group. NaN where a group or its rest is empty.

    Raises:
        ValueError: if shapes do not fit.
    """
    values, members, subjects = np.asarray(values, float), np.asarray(members, bool), np.asarray(subjects)
    if values.ndim != 1 or members.ndim != 2 or not len(values) == len(members) == len(subjects):
        raise ValueError(f"values {values.shape}, members {members.shape} and subjects {subjects.shape} must be (N,), "
                         "(N, G) and (N,)")
    known = np.isfinite(values)
    values, members = values[known], members[known]
    _, subject = np.unique(subjects[known], return_inverse=True)
    count = subject.max() + 1 if len(subject) else 0
    sums, counts = (np.stack([_per_subject(subject, weight * mask, count) for mask in (members, ~members)])
                    for weight in (values[:, None], 1.0))                                      # (2, S, G)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / max(count, 1)), repeats).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, rest = sums.sum(axis=1) / counts.sum(axis=1)
        again = (drawn @ sums) / (drawn @ counts)                                              # (2, repeats, G)
    with np.errstate(invalid="ignore"):
        differences = again[0] - again[1]
        usable = np.isfinite(differences).mean(axis=0) > 0.9
        se = np.where(usable, np.nanstd(np.where(usable, differences, 0), axis=0), np.nan)
        low, high = np.where(usable, np.nanpercentile(np.where(usable, differences, 0), [2.5, 97.5], axis=0), np.nan)
        p = np.array([math.erfc(z / math.sqrt(2)) if np.isfinite(z) else np.nan for z in np.abs(mean - rest) / se])
    return {"mean": mean, "difference": mean - rest, "low": low, "high": high, "se": se, "p": p,
            "images": counts[0].sum(axis=0).astype(int), "subjects": (counts[0] > 0).sum(axis=0)}


def _per_subject(subject: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """(S, G) sums of values (N, G) over each subject's images."""
    total = np.zeros((count, values.shape[1]))
    np.add.at(total, subject, values)
    return total


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's adjusted p-values (G,): calling those below 0.05 makes one false call or more in at most 5 % of such
    families of comparisons, however they depend on each other. NaN stays NaN and does not count."""
    p = np.asarray(p, float)
    adjusted = np.full(p.shape, np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known])]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(steps))
    return adjusted


def judge(found: dict[str, np.ndarray], for_each_seed: np.ndarray | None = None, sign: int = 1) -> list[str]:
    """The book's rule: a group is "worse" or "better" than the rest if its Holm-adjusted p is below 0.05 (over all
    groups of `found`), its difference at least `LEAST`, and every seed says the same. Else "no difference shown", or
    "too few" with fewer subjects or images than `FEWEST_SUBJECTS` and `FEWEST_IMAGES`; those do not count as asked.

    Args:
        found: of `against_rest`; for_each_seed: (K, G) differences of single networks; sign: -1 where less is better.

    Raises:
        ValueError: if the seeds are about another number of groups.
    """
    difference = sign * found["difference"]
    few = (found["subjects"] < FEWEST_SUBJECTS) | (found["images"] < FEWEST_IMAGES) | ~np.isfinite(found["p"])
    each = difference[None] if for_each_seed is None else sign * np.asarray(for_each_seed, float)
    if each.ndim != 2 or each.shape[1] != len(difference):
        raise ValueError(f"differences of seeds must be (K, {len(difference)}), not {each.shape}")
    sure = holm(np.where(few, np.nan, found["p"])) < 0.05
    agree = (np.sign(each) == np.sign(difference)).all(axis=0)
    called = sure & agree & (np.abs(difference) >= LEAST)
    return ["too few" if few[g] else "no difference shown" if not called[g] else
            "worse" if difference[g] < 0 else "better" for g in range(len(difference))]


def smallest_difference(se: np.ndarray, asked: int = 1) -> np.ndarray:
    """The true difference that a comparison with this standard error finds with probability 0.8, at a level of 0.05
    that is shared by `asked` comparisons (Bonferroni's share, the first step of Holm's).

    Raises:
        ValueError: if nothing was asked.
    """
    if asked < 1:
        raise ValueError(f"at least one comparison must have been asked for, not {asked}")
    from statistics import NormalDist
    normal = NormalDist()
    return (normal.inv_cdf(1 - 0.05 / (2 * asked)) + normal.inv_cdf(0.8)) * np.asarray(se, float)


def shuffle_members(members: np.ndarray, subjects: np.ndarray, whole: bool,
                    generator: np.random.Generator) -> np.ndarray:
    """A null: the same groups, dealt to others. (N, G) bool.

    Args:
        whole: whether the groups belong to subjects: then each subject's row goes to another subject; else rows are
            dealt anew among all images.
    """
    if not whole:
        return members[generator.permutation(len(members))]
    _, first, subject = np.unique(subjects, return_index=True, return_inverse=True)
    return members[first[generator.permutation(len(first))]][subject]

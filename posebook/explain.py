"""What a trained network has learned: what makes its maps respond, whether they are tuned to body parts, and which
joints share weights in its last layer.

Features (papers A and B): `best_places` finds where each map of a layer responds most in every image, `average_patches`
cuts the pixels that it sees there, and `selectivity` asks how good a detector of each joint each map is. Weights (paper
B): `weight_correlation` and `co_sparsity` of the last layer, `pose_correlation` of the poses themselves, and `mantel`,
one number for how well two such matrices agree.

Networks answer where they are, on a CPU or a GPU; pictures are brought there, and what is found comes back to the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from posebook import geometry, networks, training
from posebook.augment import centre
from posebook.datasets import PoseDataset
from posebook.networks import PoseNetwork
from posebook.skeleton import ABSENT

# ------------------------------------------------------------------------------------------------------- features


def layer_names(network: PoseNetwork) -> tuple[str, ...]:
    """The convolutions, lowest first."""
    return tuple(name for name, module in network.trunk.named_children() if isinstance(module, nn.Conv2d))


def find_layer(network: PoseNetwork, layer: str) -> networks.Layer:
    """Size, receptive field and step of a convolution.

    Raises:
        ValueError: for a name that does not exist, listing those that do.
    """
    if layer not in layer_names(network):
        raise ValueError(f"the network has no layer {layer!r}; it has {', '.join(layer_names(network))}")
    return next(found for found in networks.layers(network.config) if found.name == layer)


@torch.no_grad()
def responses(network: PoseNetwork, layer: str, images: torch.Tensor) -> torch.Tensor:
    """A convolution's maps (N, C, h, w), after its ReLU if it has one, for inputs (N, 3, crop, crop) in 0..1.

    Raises:
        ValueError: as `find_layer`.
    """
    return _with_gradient(network, layer, images.to(network.device)).cpu()


def _with_gradient(network: PoseNetwork, layer: str, images: torch.Tensor, relu: bool = True) -> torch.Tensor:
    find_layer(network, layer)
    maps, passed = (images - network.mean_image) / network.spread, False
    for name, module in network.trunk.named_children():
        if passed and not (relu and isinstance(module, nn.ReLU)):
            break
        maps = module(maps)
        passed = passed or name == layer
        if passed and isinstance(module, nn.ReLU):
            break
    return maps


@dataclass(frozen=True)
class BestPlaces:
    """Where each map responds most in every image.

    Attributes:
        layer: size, receptive field R and step of the layer.
        response: (N, C) float32, the largest response; place: (N, C, 2) int64, its row and column in the map.
    """

    layer: networks.Layer
    response: np.ndarray
    place: np.ndarray

    @property
    def corner(self) -> np.ndarray:
        """(N, C, 2) int64: y and x of the first input pixel of the receptive field there; a map's cell (i, j) sees the
        R x R pixels from (step i, step j) on."""
        return self.place * self.layer.step

    @property
    def dead(self) -> np.ndarray:
        """(C,) bool: maps whose largest response is the same in every image, such as those never active."""
        return np.ptp(self.response, axis=0) == 0


def best_places(network: PoseNetwork, layer: str, data: PoseDataset, batch: int = 256) -> BestPlaces:
    """See `BestPlaces`. Streams over the central crops; `batch` images are in memory at a time.

    Raises:
        ValueError: for an unknown layer or an empty data set.
    """
    found, best, where = find_layer(network, layer), [], []
    for _, maps in _streamed(network, layer, data, batch):
        value, place = _strongest(maps)
        best.append(value)
        where.append(place)
    return BestPlaces(found, torch.cat(best).numpy(), torch.cat(where).numpy())


def _strongest(maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of maps (N, C, h, w) the largest response (N, C), and its row and column (N, C, 2)."""
    value, index = maps.flatten(2).max(dim=2)
    return value, torch.stack([index // maps.shape[3], index % maps.shape[3]], dim=-1)


def _streamed(network: PoseNetwork, layer: str, data: PoseDataset,
              batch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(uint8 input pictures (N, 3, crop, crop), maps (N, C, h, w)) of one batch after the other."""
    if not len(data):
        raise ValueError(f"{data.name} {data.split} is empty: there is nothing to look at")
    network = network.eval()
    crop = network.config.crop
    start = (data.images.shape[-1] - crop) // 2
    for begin in range(0, len(data), batch):
        stored = torch.from_numpy(data.images[begin:begin + batch])
        pixels = stored[:, :, start:start + crop, start:start + crop]
        inputs = centre(stored, crop).contiguous(memory_format=torch.channels_last)
        yield pixels, responses(network, layer, inputs)


def average_patches(network: PoseNetwork, layer: str, data: PoseDataset,
                    batch: int = 256) -> tuple[np.ndarray, BestPlaces]:
    """Papers A and B: in *every* image the receptive field of each map's largest response, averaged over images.

    One pass; `batch` rules the memory.

    Returns:
        patches (C, 3, R, R) float32 in 0..255, and the places they were cut from. A receptive field that reaches past
        the border, where pooling rounds up, is moved inside.

    Raises:
        ValueError: for an unknown layer or an empty data set.
    """
    found = find_layer(network, layer)
    total, best, where = torch.zeros(()), [], []
    for pixels, maps in _streamed(network, layer, data, batch):
        value, place = _strongest(maps)
        best.append(value)
        where.append(place)
        total = total + _sum_patches(pixels, place * found.step, found.receptive_field)
    places = BestPlaces(found, torch.cat(best).numpy(), torch.cat(where).numpy())
    return (total / len(data)).numpy().astype(np.float32), places


def _sum_patches(pixels: torch.Tensor, corner: torch.Tensor, side: int) -> torch.Tensor:
    """(C, 3, side, side) float64: sum over images (N, 3, H, W) of the patch at each map's corner (N, C, 2).

    One map at a time: patches of all maps at once would not fit into a processor's cache. Summed as a product of
    matrices, several times as fast as a sum of integers, and exact for the bytes of up to 65,000 images."""
    corner = corner.clamp(max=pixels.shape[-1] - side)
    windows = pixels.unfold(2, side, 1).unfold(3, side, 1)             # a view: (N, 3, places, places, side, side)
    n, ones = torch.arange(len(pixels)), torch.ones(len(pixels))
    return torch.stack([(ones @ windows[n, :, y, x].flatten(1).float()).view(3, side, side).double()
                        for y, x in corner.permute(1, 2, 0)])


def top_patches(places: BestPlaces, data: PoseDataset, crop: int, count: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """The pictures that excite each map most.

    Returns:
        patches (C, count, 3, R, R) uint8, and the images' indices (C, count); strongest first.
    """
    side, start = places.layer.receptive_field, (data.images.shape[-1] - crop) // 2
    order = np.argsort(-places.response, axis=0, kind="stable")[:count].T                     # (C, count)
    corner = np.minimum(places.corner, crop - side) + start
    patches = np.empty((*order.shape, 3, side, side), np.uint8)
    for c, chosen in enumerate(order):
        for k, n in enumerate(chosen):
            y, x = corner[n, c]
            patches[c, k] = data.images[n][:, y:y + side, x:x + side]
    return patches, order


def equalised(patches: np.ndarray) -> np.ndarray:
    """Papers' picture of patches (..., 3, R, R): histogram-equalised per patch, then min-max scaled; float in 0..1."""
    flat = patches.reshape(-1, int(np.prod(patches.shape[-3:])))
    ranks = flat.argsort(axis=1, kind="stable").argsort(axis=1).astype(np.float64)
    levels = ranks / max(1, flat.shape[1] - 1)
    return levels.reshape(patches.shape)


def near(places: BestPlaces, joints: np.ndarray, state: np.ndarray, radius: float | None = None) -> np.ndarray:
    """Which joint lies under each map's strongest response: (N, C) int64, J for none (background).

    Args:
        joints: (N, J, 2) in input pixels; state: (N, J); radius: pixels from the middle of the receptive field, default
            a quarter of its side. Of several joints the nearest is taken.
    """
    radius = radius or places.layer.receptive_field / 4
    middle = places.corner[..., ::-1] + (places.layer.receptive_field - 1) / 2                  # x, y
    away = np.linalg.norm(middle[:, :, None] - joints[:, None], axis=-1)
    away = np.where((state != ABSENT)[:, None], away, np.inf)
    nearest = away.argmin(axis=2)
    return np.where(away.min(axis=2) <= radius, nearest, joints.shape[1])


def _labels(data: PoseDataset, crop: int, of: str) -> tuple[np.ndarray, np.ndarray]:
    """Places (N, K, 2) in pixels of the central crop, and their state (N, K), of "joints" or of the middles of "parts";
    a part with an absent joint is absent."""
    joints, state = (part.numpy() for part in training.central_labels(data, crop))
    if of == "joints":
        return joints, state
    if of != "parts":
        raise ValueError(f"maps are asked about joints or parts, not about {of!r}")
    weights = data.skeleton.limb_weights.mean(axis=0)                                        # (L, J)
    whole = np.stack([state[:, used > 0].min(axis=1) for used in weights], axis=1)
    return np.einsum("lj,njd->nld", weights, joints), whole


def selectivity(network: PoseNetwork, layer: str, data: PoseDataset, radius: float | None = None,
                labels_of: np.ndarray | None = None, of: str = "joints") -> np.ndarray:
    """How good a detector of each joint each map is: average precision (C, J) over all places of all images.

    A place counts as positive if the joint lies within `radius` pixels of the middle of what it sees (default a quarter
    of the receptive field's side). Images in which the joint is absent are left out.

    Args:
        of: "joints", or "parts" for the middles of the skeleton's L limbs: (C, L).
        labels_of: (N,) the image whose labels are taken for each image; a permutation gives the control in which
            labels are shuffled over images.

    Raises:
        ValueError: for an unknown layer or an empty data set.
    """
    found = find_layer(network, layer)
    radius = radius or found.receptive_field / 4
    maps = torch.cat([maps for _, maps in _streamed(network, layer, data, 256)]).numpy()
    joints, state = _labels(data, network.config.crop, of)
    if labels_of is not None:
        joints, state = joints[labels_of], state[labels_of]
    _, channels, height, width = maps.shape
    middle = np.arange(max(height, width)) * found.step + (found.receptive_field - 1) / 2
    dy = (middle[:height] - joints[..., 1, None]) ** 2                                            # (N, J, h)
    dx = (middle[:width] - joints[..., 0, None]) ** 2
    positive = dy[..., :, None] + dx[..., None, :] <= radius ** 2                                 # (N, J, h, w)
    counted = np.broadcast_to((state != ABSENT)[..., None, None], positive.shape)
    positive = (positive & counted).swapaxes(0, 1).reshape(joints.shape[1], -1)
    counted = counted.swapaxes(0, 1).reshape(joints.shape[1], -1)
    return np.stack([_average_precisions(maps[:, c].ravel(), positive, counted) for c in range(channels)])


def _average_precisions(score: np.ndarray, positive: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """(J,) `metrics.average_precision` of one score (M,) for many labels (J, M), of which some do not count; the scores
    are sorted once."""
    order = np.argsort(-score, kind="stable")
    last = np.searchsorted(-score[order], -score[order], side="right") - 1          # of those with the same score
    found = np.full(len(positive), np.nan)
    for j, (yes, known) in enumerate(zip(positive, counted, strict=True)):
        hits, ranks = yes[order].cumsum(), known[order].cumsum()
        if hits[-1]:
            at = last[yes[order]]
            found[j] = (hits[at] / ranks[at]).mean()
    return found


# ---------------------------------------------------------------------------------------- one prediction, one neuron


def _answer(network: PoseNetwork, head: str, inputs: torch.Tensor, joint: int) -> torch.Tensor:
    """(N, D) the numbers that a regression head gives for a joint, as it gives them (not decoded)."""
    if head not in network.heads:
        raise ValueError(f"the network has no head {head!r}; it has {', '.join(network.heads)}")
    dimensions = {"pose3d": 3, "regression": 2}.get(head)
    if dimensions is None:
        raise ValueError(f"the head {head} regresses no joints; pose3d and regression do")
    return network(inputs)[head].reshape(len(inputs), -1, dimensions)[:, joint]


@torch.no_grad()
def occlusion(network: PoseNetwork, head: str, image: torch.Tensor, joint: int, side: int = 9,
              step: int = 3) -> np.ndarray:
    """What the prediction of a joint hangs on: how far it moves when a square of the picture is covered.

    Args:
        image: (3, crop, crop) in 0..1; joint: its index; side, step: of the square that slides, in pixels. It is filled
            with the training set's mean image, which the network sees as nothing.

    Returns:
        (n, n) Euclidean length of the change in the head's numbers for each place of the square, rows (y) first.
    """
    crop, image = network.config.crop, image.to(network.device)
    corners = range(0, crop - side + 1, step)
    covered = image.repeat(len(corners) ** 2, 1, 1, 1)
    for k, (y, x) in enumerate((y, x) for y in corners for x in corners):
        covered[k, :, y:y + side, x:x + side] = network.mean_image[:, y:y + side, x:x + side]
    network = network.eval()
    before = _answer(network, head, image[None], joint)
    after = torch.cat([_answer(network, head, part, joint) for part in covered.split(256)])
    return (after - before).norm(dim=1).reshape(len(corners), -1).cpu().numpy()


def gradient(network: PoseNetwork, head: str, image: torch.Tensor, joint: int) -> np.ndarray:
    """The slope of a joint's predicted numbers at every pixel: (crop, crop), root of the sum of squares over the
    numbers and colours. image: (3, crop, crop) in 0..1."""
    network = network.eval()
    pixels = image[None].to(network.device).clone().requires_grad_(True)
    numbers = _answer(network, head, pixels, joint)[0]
    slopes = [torch.autograd.grad(number, pixels, retain_graph=True)[0][0] for number in numbers]
    return torch.stack(slopes).square().sum(dim=(0, 1)).sqrt().cpu().numpy()


def maximise(network: PoseNetwork, layer: str, maps: list[int], steps: int = 150, rate: float = 0.03, coarse: int = 4,
             seed: int = 0) -> np.ndarray:
    """Pictures made to excite maps: gradient ascent on the pixels that the middle of each map sees.

    Three restraints keep the pictures from being noise: the pixels stay in 0..1, every step starts from a picture moved
    by up to two pixels, and the picture is smooth, since only every `coarse`-th pixel each way is free.

    Args:
        maps: their indices.

    Returns:
        (len(maps), 3, R, R) float32 in 0..1, R the receptive field.

    Raises:
        ValueError: for an unknown layer.
    """
    found, generator = find_layer(network, layer), torch.Generator().manual_seed(seed)
    middle, size = found.side // 2, network.config.crop
    y = x = middle * found.step
    network = network.eval()
    start = 0.1 * torch.randn(len(maps), 3, size // coarse, size // coarse, generator=generator)
    free = start.to(network.device).requires_grad_(True)
    optimizer = torch.optim.Adam([free], lr=rate)

    def picture() -> torch.Tensor:
        smooth = nn.functional.interpolate(free, size=size, mode="bicubic", align_corners=False)
        return torch.sigmoid(4 * smooth)                                          # grey at zero, and never outside 0..1

    for _ in range(steps):
        shift = torch.randint(-2, 3, (2,), generator=generator).tolist()
        # before the ReLU: where that is silent, no gradient would say how to wake it
        maps_now = _with_gradient(network, layer, torch.roll(picture(), shift, (2, 3)), relu=False)
        optimizer.zero_grad()
        (-maps_now[range(len(maps)), maps, middle, middle].sum()).backward()
        optimizer.step()
    side = found.receptive_field
    return picture().detach()[:, :, y:y + side, x:x + side].cpu().numpy()


def probe(network: PoseNetwork, layer: str, train_set: PoseDataset, data: PoseDataset, cells: int = 4,
          ridge: float = 100.0, of: str = "joints") -> np.ndarray:
    """How well a *linear* reader finds each joint from a layer alone: (J,) R^2 of its 2D place on `data`, mean of x and
    y.

    The reader is a ridge regression from the largest responses in `cells` x `cells` parts of each map, standardised.
    `of`: as for `selectivity`. 1 is perfect, 0 as good as the mean place. Images in which a joint is absent do not
    count for it.

    Raises:
        ValueError: for an unknown layer or an empty data set.
    """
    def features(some: PoseDataset) -> np.ndarray:
        pooled = [nn.functional.adaptive_max_pool2d(maps, cells).flatten(1) for _, maps in
                  _streamed(network, layer, some, 256)]
        return torch.cat(pooled).double().numpy()

    known, asked = features(train_set), features(data)
    middle, spread = known.mean(axis=0), known.std(axis=0) + 1e-9
    # A map that is nearly always silent has a tiny spread: without the limit one loud image would rule the fit.
    known, asked = (np.c_[np.clip((f - middle) / spread, -4, 4), np.ones(len(f))] for f in (known, asked))
    truth, state = _labels(train_set, network.config.crop, of)
    true, marks = _labels(data, network.config.crop, of)
    scores = []
    for j in range(truth.shape[1]):
        use, count = state[:, j] != ABSENT, marks[:, j] != ABSENT
        gram = known[use].T @ known[use] + ridge * np.eye(known.shape[1])
        solution = np.linalg.solve(gram, known[use].T @ truth[use, j])
        rest = ((asked[count] @ solution - true[count, j]) ** 2).sum(axis=0)
        total = ((true[count, j] - true[count, j].mean(axis=0)) ** 2).sum(axis=0)
        scores.append(float((1 - rest / total).mean()))
    return np.array(scores)


# -------------------------------------------------------------------------------------------------------- weights


def shuffle_joints(data: PoseDataset, seed: int) -> PoseDataset:
    """Bodies without correlations: each joint's 3D offset from its parent is taken from another image, drawn anew for
    every joint. Pictures and 2D labels stay. A control: what a last layer learns from such poses is not the body.

    Raises:
        ValueError: if there are no joints in 3D.
    """
    if data.joints3d is None:
        raise ValueError(f"{data.name} has no joints in 3D to shuffle")
    rng = np.random.default_rng(seed)
    offsets = geometry.to_parent_relative(data.joints3d, data.skeleton)
    for j in range(len(data.skeleton)):
        offsets[:, j] = offsets[rng.permutation(len(data)), j]
    rebuilt = geometry.from_parent_relative(offsets, data.skeleton) + data.joints3d[:, [data.skeleton.root]]
    return replace(data, joints3d=rebuilt.astype(np.float32))


def last_layer(network: PoseNetwork, head: str) -> np.ndarray:
    """Weights (outputs, hidden) float64 of a head's last linear layer.

    Raises:
        ValueError: if there is no such head, or it has no linear layer.
    """
    if head not in network.heads:
        raise ValueError(f"the network has no head {head!r}; it has {', '.join(network.heads)}")
    linear = [module for module in network.heads[head].modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError(f"the head {head} has no linear layer, so there are no last weights to look at")
    return linear[-1].weight.detach().double().cpu().numpy()


def by_coordinate(rows: np.ndarray, dimensions: int) -> np.ndarray:
    """(J dimensions, K), coordinates of each joint in turn, to (dimensions, J, K)."""
    return rows.reshape(-1, dimensions, rows.shape[1]).swapaxes(0, 1)


def correlation(rows: np.ndarray) -> np.ndarray:
    """Pearson correlation of all pairs of rows: (..., J, K) -> (..., J, J). NaN for rows that are constant."""
    centred = rows - rows.mean(axis=-1, keepdims=True)
    size = np.sqrt((centred ** 2).sum(axis=-1))
    size = np.where(size > 1e-12 * np.abs(rows).max(axis=-1, initial=1e-300), size, np.nan)
    return (centred @ centred.swapaxes(-1, -2)) / (size[..., :, None] * size[..., None, :])


def weight_correlation(network: PoseNetwork, head: str, dimensions: int) -> np.ndarray:
    """Paper B: correlation of the last layer's weights of all pairs of joints, for each coordinate: (D, J, J)."""
    return correlation(by_coordinate(last_layer(network, head), dimensions))


def pose_correlation(targets: np.ndarray, dimensions: int) -> np.ndarray:
    """The same matrices from poses, as the network is taught them: targets (N, J D) -> (D, J, J). The root, which never
    moves, has NaN."""
    return correlation(by_coordinate(np.asarray(targets, np.float64).T, dimensions))


def strongest(matrices: np.ndarray) -> np.ndarray:
    """Of matrices (D, J, J) the entry with the largest magnitude, with its sign: (J, J). NaN where all are."""
    filled = np.where(np.isnan(matrices), 0, matrices)
    pick = np.abs(filled).argmax(axis=0)
    chosen = np.take_along_axis(filled, pick[None], axis=0)[0]
    return np.where(np.isnan(matrices).all(axis=0), np.nan, chosen)


def co_sparsity(rows: np.ndarray, p: float = 0.2) -> np.ndarray:
    """Paper B's co-sparsity of all pairs: -sum_k (|F_ik / s_i|^p + |F_jk / s_j|^p)^(1/p), (..., J, K) -> (..., J, J).

    What s is was not found in the paper; here it is the row's standard deviation, so that only the shape of the weights
    counts. Larger (nearer zero) is sparser. NaN for rows without variation.
    """
    spread = rows.std(axis=-1, keepdims=True)
    powers = np.abs(rows / np.where(spread > 0, spread, np.nan)) ** p
    pairs = powers[..., :, None, :] + powers[..., None, :, :]
    return -(pairs ** (1 / p)).sum(axis=-1)


def mantel(one: np.ndarray, other: np.ndarray, permutations: int = 2000, seed: int = 0) -> dict[str, float]:
    """How well two symmetric matrices (J, J) agree: the Mantel test.

    Returns:
        "r": Pearson correlation of their entries above the diagonal, over pairs that both know; "p": the share of
        renumberings of the joints of one matrix that reach at least this r (itself counted).

    Raises:
        ValueError: if shapes differ, or fewer than three joints are known in both.
    """
    if one.shape != other.shape or one.ndim != 2 or one.shape[0] != one.shape[1]:
        raise ValueError(f"two square matrices of one size are needed, got {one.shape} and {other.shape}")
    off = ~np.eye(len(one), dtype=bool)
    unknown = np.where(off, np.isnan(one) | np.isnan(other), False)
    known = np.flatnonzero(~(unknown | ~off).all(axis=1))
    a, b = one[np.ix_(known, known)], other[np.ix_(known, known)]
    upper = np.triu_indices(len(known), 1)
    if len(known) < 3 or np.isnan(a[upper]).any() or np.isnan(b[upper]).any():
        raise ValueError("the two matrices must know the same joints, at least three of them")

    def agreement(order: np.ndarray) -> float:
        return float(np.corrcoef(a[upper], b[np.ix_(order, order)][upper])[0, 1])

    r, rng = agreement(np.arange(len(known))), np.random.default_rng(seed)
    reached = sum(agreement(rng.permutation(len(known))) >= r - 1e-12 for _ in range(permutations))
    return {"r": r, "p": (reached + 1) / (permutations + 1)}


# --------------------------------------------------------------------------------------------------------- records

LAYERS = ("conv2", "conv3")


def weights_report(network: PoseNetwork, head: str, dimensions: int, targets: np.ndarray, seed: int) -> dict:
    """What the last layer knows, for a record: "correlation" and "co_sparsity" (D, J, J) of its weights, "mantel" with
    the poses' own correlation for each coordinate and for the strongest of them, and the same of "untrained" weights.

    Args:
        targets: (N, J D) what the network was taught; seed: of the untrained network beside it.
    """
    torch.manual_seed(seed)
    poses = pose_correlation(targets, dimensions)
    found: dict = {"poses": poses}
    for name, net in (("trained", network), ("untrained", PoseNetwork(network.config))):
        matrices = weight_correlation(net, head, dimensions)
        pairs = [*zip("xyz", matrices, poses, strict=False), ("strongest", strongest(matrices), strongest(poses))]
        found[name] = {"correlation": matrices, "mantel": {key: mantel(ours, body) for key, ours, body in pairs},
                       "co_sparsity": co_sparsity(by_coordinate(last_layer(net, head), dimensions))}
    return found


def features_report(network: PoseNetwork, data: PoseDataset, seed: int) -> dict[str, dict]:
    """How selective the maps are, for a record: layer -> average precision (C, J) of every map for every joint,
    "trained" and "untrained", each also with labels "shuffled" over images; the same of "parts"; "dead" maps; and which
    joint lies "under" each map's strongest response, as shares over images (C, J + 1), the last for the background.
    """
    torch.manual_seed(seed)
    other = PoseNetwork(network.config)
    other.mean_image.copy_(network.mean_image)
    other.spread.copy_(network.spread)
    order = np.random.default_rng(seed).permutation(len(data))
    joints, state = (part.numpy() for part in training.central_labels(data, network.config.crop))
    found = {}
    for layer in LAYERS:
        places = best_places(network, layer, data)
        under = near(places, joints, state)
        found[layer] = {
            "receptive_field": places.layer.receptive_field, "dead": np.flatnonzero(places.dead),
            "under": np.stack([(under == j).mean(axis=0) for j in range(joints.shape[1] + 1)], axis=1),
            **_four(network, other, layer, data, order, "joints"),
            "parts": _four(network, other, layer, data, order, "parts")}
    return found


def _four(network: PoseNetwork, other: PoseNetwork, layer: str, data: PoseDataset, order: np.ndarray,
          of: str) -> dict[str, np.ndarray]:
    """Selectivity of trained and untrained maps, with true and with shuffled labels."""
    return {name: selectivity(net, layer, data, labels_of=labels, of=of) for name, net, labels in (
        ("trained", network, None), ("trained, shuffled", network, order),
        ("untrained", other, None), ("untrained, shuffled", other, order))}

"""Facts about the handcrafted maps, and what they find on the built-in images."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("skimage")

from relicv2.saliency import absorbing_chain as mc
from relicv2.saliency import dense_crf, reconstruction
from relicv2.saliency import manifold_ranking as mr
from relicv2.saliency import rbd as robust
from relicv2.saliency import superpixels as parts_of
from relicv2.saliency.handcrafted import MAPS, fused, handcrafted_mask
from relicv2.saliency.superpixels import Floats
from retable.data.shapes.dataset import Shapes
from retable.errors import UserError

SHAPES = Shapes(6, size=64, classes=32, rho=0.0, split="test")
IMAGES = SHAPES.images(torch.arange(6))
OBJECTS = SHAPES.masks(torch.arange(6)).reshape(6, 64, 64) > 0


def overlap(found: Tensor, wanted: Tensor) -> float:
    return float((found & wanted).sum() / (found | wanted).sum())


@pytest.mark.parametrize("name", MAPS)
def test_every_map_finds_the_object(name: str) -> None:
    found = [overlap(torch.from_numpy(MAPS[name](image) > 0.5), mask) for image, mask in objects()]
    assert sum(found) / len(found) > 0.75


def objects() -> list[tuple[Tensor, Tensor]]:
    return list(zip(IMAGES, OBJECTS, strict=True))


@pytest.mark.parametrize("name", MAPS)
def test_maps_have_the_images_size_and_values_from_0_to_1(name: str) -> None:
    for image in (IMAGES[0], IMAGES[0][:, :48], torch.full((3, 40, 56), 128, dtype=torch.uint8)):
        found = MAPS[name](image)
        assert found.shape == image.shape[1:]
        assert np.isfinite(found).all()
        assert found.min() >= 0
        assert found.max() <= 1


def noise() -> Tensor:
    """Return an image of which SLIC makes one superpixel."""
    draw = np.random.default_rng(0)
    return torch.from_numpy(draw.integers(0, 256, (3, 48, 64), dtype=np.uint8))


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize(
    "image",
    [noise(), noise()[:, :1, :1], noise()[:, :1], noise()[:, :2, :3], noise()[:, :, ::16]],
    ids=lambda image: "x".join(map(str, image.shape[1:])),
)
@pytest.mark.filterwarnings("error")
def test_images_that_slic_cannot_divide_have_maps(name: str, image: Tensor) -> None:
    found = MAPS[name](image)
    assert found.shape == image.shape[1:]
    assert np.isfinite(found).all()


def test_noise_is_divided_into_squares() -> None:
    image = parts_of.as_array(noise())
    assert parts_of.slic_labels(image, 200, 10.0).max() + 1 < 50
    assert 50 <= len(parts_of.segment(image, 200)) <= 300
    squares = parts_of.square_labels(6, 8, 12)
    assert squares[:2, :2].tolist() == [[0, 0], [0, 0]]
    assert np.array_equal(np.unique(squares), np.arange(12))


@pytest.mark.parametrize("name", MAPS)
def test_a_mirrored_image_has_the_mirrored_map(name: str) -> None:
    # Up to SLIC, whose grid begins at the left.
    found = np.mean([MAPS[name](image) for image in IMAGES[:2]], axis=0)
    mirrored = np.mean([MAPS[name](image.flip(2))[:, ::-1] for image in IMAGES[:2]], axis=0)
    assert np.abs(found - mirrored).mean() < 0.1


@pytest.fixture(scope="module")
def parts() -> parts_of.Superpixels:
    return parts_of.segment(parts_of.as_array(IMAGES[0]), 200)


def test_superpixels_are_numbered_and_average_their_pixels(parts: parts_of.Superpixels) -> None:
    image = parts_of.as_array(IMAGES[0])
    assert set(np.unique(parts.labels)) == set(range(len(parts)))
    for number in range(0, len(parts), 7):
        inside = parts.labels == number
        assert parts.rgb[number] == pytest.approx(image[inside].mean(axis=0))
        rows, columns = np.nonzero(inside)
        assert parts.centers[number] == pytest.approx([rows.mean() / 64, columns.mean() / 64])


def test_neighbours_are_those_of_a_drawing() -> None:
    labels = np.array([[0, 0, 1], [0, 0, 1], [2, 3, 3]])
    sides = parts_of.neighbours(labels, diagonal=False)
    corners = parts_of.neighbours(labels, diagonal=True)
    assert {(i, j) for i, j in np.argwhere(sides).tolist() if i < j} == {
        (0, 1),
        (0, 2),
        (0, 3),
        (1, 3),
        (2, 3),
    }
    assert np.array_equal(corners, sides)
    line = parts_of.neighbours(np.array([[0, 1, 2, 3]]), diagonal=False)
    two = {(i, j) for i, j in np.argwhere(parts_of.two_ring(line)).tolist() if i < j}
    assert two == {(0, 1), (1, 2), (2, 3), (0, 2), (1, 3)}


def test_what_is_connected_to_the_border_is_background(parts: parts_of.Superpixels) -> None:
    colours = parts_of.distances(parts.lab)
    adjacent = parts_of.neighbours(parts.labels, diagonal=False)
    border = parts_of.at_border(parts.labels, 2)
    scales = robust._scales(colours, adjacent)
    background = robust.background_probability(colours, adjacent, border, scales)
    inside = parts_of.means(parts.labels, OBJECTS[0].numpy()[..., None].astype(float))[:, 0] > 0.5
    assert (
        background.connectivity[~inside].mean() > 3 > 0.5 > background.connectivity[inside].mean()
    )
    assert ((background.probability >= 0) & (background.probability <= 1)).all()
    foreground = np.random.default_rng(0).random(len(parts))
    found = robust.optimised(colours, adjacent, border, background.weight, foreground, scales)
    assert found.min() >= 0
    assert found.max() <= 1


def test_the_ranking_matrix_is_symmetric_and_positive_definite(parts: parts_of.Superpixels) -> None:
    edges = parts_of.two_ring(parts_of.neighbours(parts.labels, diagonal=True))
    found = mr.laplacian(parts.mean_lab, edges)
    assert np.array_equal(found, found.T)
    assert np.linalg.eigvalsh(found).min() > 0


def test_a_walk_can_only_end_at_the_border(parts: parts_of.Superpixels) -> None:
    edges = parts_of.two_ring(parts_of.neighbours(parts.labels, diagonal=True))
    weights = mc.transition_weights(parts.lab, edges)
    border = parts_of.at_border(parts.labels)
    steps = mc.transient_steps(weights, weights.sum(axis=1), border)
    sums = steps.sum(axis=1)
    near = border | edges[:, border].any(axis=1)
    assert (sums[near] < 1).all()
    assert sums[~near] == pytest.approx(1.0)
    times = np.linalg.solve(np.eye(len(parts)) - steps, np.ones(len(parts)))
    assert times.min() >= 1


def test_the_ranking_is_that_of_the_graph_s_equations() -> None:
    colours, adjacent = small_graph()
    edges = parts_of.two_ring(adjacent)
    between = [[float(np.linalg.norm(a - b)) for b in colours] for a in colours]
    joined = [between[i][j] for i in range(6) for j in range(6) if edges[i, j]]
    low, high = min(joined), max(joined)
    weights = np.zeros((6, 6))
    for i, j in np.argwhere(edges):
        weights[i, j] = np.exp(-(between[i][j] - low) / (high - low) / 0.1)
    expected = np.linalg.inv(np.diag(weights.sum(axis=1)) - 0.99 * weights)
    np.fill_diagonal(expected, 0.0)
    np.testing.assert_allclose(mr.ranking_matrix(colours, edges), expected)


def small_graph() -> tuple[Floats, parts_of.Bools]:
    """Return colours (6, 3) in CIELAB and neighbours (6, 6): a ring with a chord."""
    colours = np.random.default_rng(3).uniform(0, 60, (6, 3))
    adjacent = np.zeros((6, 6), dtype=bool)
    for i, j in [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0), (1, 4)]:
        adjacent[i, j] = adjacent[j, i] = True
    return colours, adjacent


def test_the_background_is_that_of_paths_along_the_graph() -> None:
    colours, adjacent = small_graph()
    between = parts_of.distances(colours)
    border = np.array([True, True, False, False, False, True])
    scales = robust._Scales(noise=5.0, geodesic=9.0, neighbour=12.0)
    found = robust.background_probability(between, adjacent, border, scales)
    joined = adjacent | np.outer(border, border)
    paths = np.where(joined, np.maximum(0, between - 5.0) + robust.FREE, np.inf)
    np.fill_diagonal(paths, 0.0)
    for via in range(6):  # Floyd and Warshall
        paths = np.minimum(paths, paths[:, via : via + 1] + paths[via])
    for i in range(6):
        near = [np.exp(-((d / 9.0) ** 2) / 2) if d <= 27.0 else 0.0 for d in paths[i]]
        connectivity = sum(n for n, b in zip(near, border, strict=True) if b) / sum(near) ** 0.5
        assert found.connectivity[i] == pytest.approx(connectivity)
        assert found.probability[i] == pytest.approx(1 - np.exp(-(connectivity**2) / 2))
        certain = 1000.0 if connectivity > 3 else found.probability[i]
        assert found.weight[i] == pytest.approx(certain)
    many = np.ones((40, 40)) - np.eye(40)
    alone = robust.background_probability(0 * many, many > 0, np.ones(40, dtype=bool), scales)
    assert (alone.weight == 1000.0).all()


def test_the_optimum_has_no_gradient() -> None:
    colours, adjacent = small_graph()
    between, scales = parts_of.distances(colours), robust._Scales(5.0, 9.0, 12.0)
    border = np.array([True, True, False, False, False, True])
    background, foreground = np.random.default_rng(5).random((2, 6))
    found = robust.optimised(between, adjacent, border, background, foreground, scales)
    smooth = torch.zeros(6, 6, dtype=torch.float64)
    joined = parts_of.two_ring(adjacent) | np.outer(border, border)
    for i in range(6):
        for j in range(6):
            if i != j:
                near = float(np.exp(-((between[i, j] / 12.0) ** 2) / 2))
                if joined[i, j] and between[i, j] <= 36.0:
                    smooth[i, j] += near
                smooth[i, j] += 0.1 * float(adjacent[i, j])
    values = torch.tensor(found, requires_grad=True)
    cost = (
        (5 * torch.tensor(background) * values**2).sum()
        + (torch.tensor(foreground) * (values - 1) ** 2).sum()
        + (smooth * (values[:, None] - values[None]) ** 2).sum() / 2
    )
    cost.backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None
    assert float(values.grad.abs().max()) < 1e-9


def test_the_walk_s_weights_and_times_are_those_of_the_equations() -> None:
    colours, adjacent = small_graph()
    edges = parts_of.two_ring(adjacent)
    weights = mc.transition_weights(colours, edges)
    between = parts_of.distances(colours)
    low, high = between[edges].min(), between[edges].max()
    for i in range(6):
        for j in range(6):
            stretched = (between[i, j] - low) / (high - low)
            expected = np.exp(-10 * stretched) + 1e-5 if edges[i, j] else float(i == j)
            assert weights[i, j] == pytest.approx(expected)
    border = np.array([True, False, False, True, False, False])
    degree = weights.sum(axis=1)
    steps = [
        [weights[i, j] / (degree[i] + weights[i, 0] + weights[i, 3]) for j in range(6)]
        for i in range(6)
    ]
    times = np.ones(6)
    for _ in range(20_000):  # the expected number of steps, step by step
        times = 1 + np.array(steps) @ times
    expected = (times - times.min()) / (times.max() - times.min())
    bins = np.minimum((expected * 10).astype(int), 9)
    score = sum(min(k + 1, 10 - k) * float((bins == k).mean()) for k in range(10))
    if score >= 2:
        rare = degree.sum() / degree
        weighted = np.linalg.solve(np.eye(6) - np.array(steps), rare / rare.sum())
        expected = (weighted - weighted.min()) / (weighted.max() - weighted.min())
    assert mc._absorbed(weights, degree, border) == pytest.approx(expected)


def test_a_border_that_is_unlike_its_neighbours_is_a_frame() -> None:
    image = IMAGES[0].clone()
    for edge in (image[:, :4], image[:, -4:], image[:, :, :4], image[:, :, -4:]):
        edge[:] = torch.tensor([255, 0, 255], dtype=torch.uint8)[:, None, None]
    for shown, framed in ((IMAGES[0], False), (image, True)):
        parts = parts_of.segment(parts_of.as_array(shown), mc.COUNT)
        adjacent = parts_of.neighbours(parts.labels, diagonal=True)
        edges = parts_of.two_ring(adjacent | mc.facing(parts.labels))
        weights = mc.transition_weights(parts.lab, edges)
        border = parts_of.at_border(parts.labels)
        inner = mc._behind(border, adjacent)
        sums = sum(
            weights[i, j]
            for i in np.flatnonzero(border)
            for j in np.flatnonzero(inner & adjacent[i])
        )
        assert (sums <= 13) == framed
        assert mc.is_frame(weights, adjacent, border, inner) == framed


def test_errors_are_spread_within_clusters_the_largest_first() -> None:
    draw = np.random.default_rng(1)
    errors, features = draw.random(7), draw.random((7, 8))
    members = np.array([0, 0, 0, 1, 1, 1, 2])
    variance = np.mean([features[:, k].var() for k in range(8)])
    expected = errors.copy()
    for i in sorted(range(7), key=lambda i: -errors[i]):
        others = [j for j in range(7) if j != i and members[j] == members[i]]
        if not others:
            continue
        near = [np.exp(-np.sum((features[i] - features[j]) ** 2) / (2 * variance)) for j in others]
        mean = sum(n * expected[j] for n, j in zip(near, others, strict=True)) / sum(near)
        expected[i] = 0.5 * expected[i] + 0.5 * mean
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    assert reconstruction.propagated(errors, features, members) == pytest.approx(expected)


def test_the_components_kept_are_one_more_than_95_percent_of_the_variance_need() -> None:
    draw = np.random.default_rng(2)
    # Variances of 100, 10, 1, ...: the first has 90 %, so that two are needed and three are kept.
    templates = draw.standard_normal((4000, 8)) * 10.0 ** -(np.arange(8) / 2)
    features = np.vstack([np.eye(8), -np.eye(8)])  # their mean is 0
    errors = reconstruction.dense_errors(features, templates)
    assert errors[:3].max() < 0.1
    assert errors[3:8].min() > 0.9


def test_the_object_weighs_by_a_quarter_of_the_sides() -> None:
    draw = np.random.default_rng(4)
    values = draw.random((12, 20))
    rows, columns = np.indices(values.shape)
    top, left = ((places * values).sum() / values.sum() for places in (rows, columns))
    weights = np.exp(-(((rows - top) / 3) ** 2 + ((columns - left) / 5) ** 2) / 2)
    assert reconstruction.biased_to_object(values) == pytest.approx(
        parts_of.minmax(values * weights)
    )


def test_the_posterior_is_bayes_rule_with_histograms_of_60_bins() -> None:
    draw = np.random.default_rng(6)
    prior, observed = draw.random((2, 20, 30))
    inside = prior > prior.mean()

    def likelihood(region: parts_of.Bools, value: float) -> float:
        low, high = observed[region].min(), observed[region].max()
        if not low <= value <= high:
            return 0.0
        place = min(int((value - low) / (high - low) * 60), 59)
        bins = np.minimum(((observed[region] - low) / (high - low) * 60).astype(int), 59)
        return float((bins == place).mean())

    expected = np.zeros((20, 30))
    for place in np.ndindex(20, 30):
        likely = likelihood(inside, observed[place]) * prior[place]
        unlikely = likelihood(~inside, observed[place]) * (1 - prior[place])
        expected[place] = likely / (likely + unlikely)
    assert reconstruction.posterior(prior, observed) == pytest.approx(parts_of.minmax(expected))


def test_the_middle_score_is_1_for_maps_of_0_and_1() -> None:
    assert mc.middle_score(np.array([0.0, 1.0, 1.0])) == 1.0
    assert mc.middle_score(np.array([0.45, 0.55])) == 5.0


def test_templates_reconstruct_themselves(parts: parts_of.Superpixels) -> None:
    features = parts_of.means(
        parts.labels, reconstruction.pixel_features(parts_of.as_array(IMAGES[0]))
    )
    border = parts_of.at_border(parts.labels)
    errors = reconstruction.sparse_errors(features, features[border])
    assert errors[border].max() < 1e-3
    assert errors[~border].max() > 10 * errors[border].max()


def test_the_sparse_errors_are_the_minimum_of_their_objective() -> None:
    draw = np.random.default_rng(0)
    features, templates = draw.random((3, 8)), draw.random((5, 8))
    found = reconstruction.sparse_errors(features, templates, steps=2000)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    atoms = templates / np.linalg.norm(templates, axis=1, keepdims=True)
    for row, error in zip(unit, found, strict=True):
        coefficients = by_coordinates(row, atoms)
        assert error == pytest.approx(np.square(row - coefficients @ atoms).sum(), abs=1e-8)


def by_coordinates(row: Floats, atoms: Floats) -> Floats:
    """Minimise |f - D a|^2 / 2 + 0.01 |a|_1 one coefficient at a time."""
    found = np.zeros(len(atoms))
    for _ in range(5000):
        for number, atom in enumerate(atoms):
            rest = row - found @ atoms + found[number] * atom
            product = rest @ atom
            found[number] = np.sign(product) * max(abs(product) - reconstruction.PENALTY, 0.0)
    return found


def test_the_field_follows_the_edges_of_the_image() -> None:
    image = torch.zeros(3, 24, 24, dtype=torch.uint8)
    image[:, 6:18, 6:18] = 200
    wanted = (image[0] > 0).numpy()
    draw = np.random.default_rng(0)
    noisy = np.clip(wanted * 0.3 + 0.35 + draw.normal(0, 0.15, wanted.shape), 0, 1)
    found = dense_crf.DenseCRF().refine(noisy, image)
    assert ((noisy > 0.5) != wanted).mean() > 0.1
    assert np.array_equal(found > 0.5, wanted)


def test_a_step_of_the_field_is_that_of_loops() -> None:
    draw = np.random.default_rng(0)
    image = torch.from_numpy(draw.integers(0, 256, (3, 4, 5), dtype=np.uint8))
    saliency = draw.uniform(0.2, 0.8, (4, 5))
    # Wide kernels: the usual ones reach less than a pixel of so small an image.
    crf = dense_crf.DenseCRF(smooth_width=100.0, place_width=200.0, colour_width=60.0, steps=1)
    found = crf.refine(saliency, image)
    scale = 5 / dense_crf.REFERENCE_SIDE
    places = [(row, column) for row in range(4) for column in range(5)]

    def links(of: Callable[[tuple[int, int], tuple[int, int]], float]) -> Floats:
        matrix = np.array([[of(a, b) for b in places] for a in places])
        root = np.sqrt(matrix.sum(axis=1))
        found: Floats = matrix / root[:, None] / root[None]
        return found

    def far(a: tuple[int, int], b: tuple[int, int], width: float) -> float:
        return float(sum(((x - y) / (width * scale)) ** 2 for x, y in zip(a, b, strict=True)))

    def unlike(a: tuple[int, int], b: tuple[int, int]) -> float:
        one, other = (image[:, row, column].double() for row, column in (a, b))
        return float(((one - other) / 60).square().sum())

    smooth = links(lambda a, b: float(np.exp(-far(a, b, 100) / 2)))
    alike = links(lambda a, b: float(np.exp(-(far(a, b, 200) + unlike(a, b)) / 2)))
    inside = saliency.ravel()
    scores = [np.log(p) + (3 * smooth + 10 * alike) @ p for p in (1 - inside, inside)]
    expected = 1 / (1 + np.exp(scores[0] - scores[1]))
    assert found.ravel() == pytest.approx(expected, abs=1e-5)


def test_the_fusion_with_a_field_is_a_mask_of_the_object() -> None:
    image, mask = objects()[0]
    plain, refined = fused(image), fused(image, dense_crf.DenseCRF())
    assert plain == pytest.approx(np.mean([one(image) for one in MAPS.values()], axis=0))
    assert overlap(torch.from_numpy(refined > 0.5), mask) > 0.8
    assert torch.equal(handcrafted_mask(image), torch.from_numpy(plain > 0.5))


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(UserError, match="`image` must be uint8"):
        fused(IMAGES[0].float())
    with pytest.raises(UserError, match="the image's height and width"):
        dense_crf.DenseCRF().refine(np.zeros((3, 3)), IMAGES[0])

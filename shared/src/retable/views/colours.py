"""Colours: jitter, greyscale, blur, solarise, RandAugment, normalise, each sample by its draws.

`retable.views.photometric_plan` puts the steps in order; here they are computed. Channels lie
apart, (3, B, S, S), so that every operation runs over contiguous planes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import torch
from torch import Tensor

from retable.nn.patches import standardise
from retable.views import levels
from retable.views.photometric_plan import BLENDS, PhotometricPlan, SelectedRows, photometric_plan
from retable.views.recipe import ViewRecipe
from retable.views.sampling import ViewParameters

# So many values are worked through at once on a CPU, in order to stay in its cache.
_CPU_PIECE = 1 << 19
# Blurring that many pixels at a time skips the zeros of the blur's matrix.
_BLUR_BLOCK = 64


def photometric(
    crops: Tensor,
    parameters: ViewParameters,
    recipe: ViewRecipe,
    *,
    masks: Tensor | None = None,
    compiled: bool = False,
) -> Tensor:
    """Apply the colour half of B views.

    Equal, to float rounding, to torchvision's functional operations one sample at a time:
    ``adjust_brightness``, ``adjust_contrast``, ``adjust_saturation``, ``adjust_hue``,
    ``rgb_to_grayscale``, ``gaussian_blur``, ``solarize`` (threshold 0.5), ``normalize``; and to
    TensorFlow's ``adjust_brightness`` and ``adjust_saturation`` where a recipe has these.
    RandAugment takes the nearest 8-bit levels and does with them what Pillow does.

    Crops are (B, 3, S, S) float32 in [0, 1], or uint8, and left unchanged; the result is float32,
    contiguous, normalised or standardised. ``masks`` are (B, 1, S, S) bool, True in the foreground,
    of views whose recipe has a ``mask_probability``. ``compiled`` runs the tensor program through
    `torch.compile`, with shapes that do not depend on the draws; it is meant for GPUs.
    """
    piece = max(1, _CPU_PIECE // crops[:1].numel()) if len(crops) else 1
    if crops.device.type == "cpu" and not compiled and len(crops) > piece:
        starts = range(0, len(crops), piece)
        pieces = (slice(start, start + piece) for start in starts)
        return torch.cat(
            [
                photometric(
                    crops[rows],
                    parameters[rows],
                    recipe,
                    masks=None if masks is None else masks[rows],
                )
                for rows in pieces
            ]
        )
    plan = photometric_plan(parameters, recipe, fixed_shapes=compiled).to(crops.device)
    zeros = recipe.blur_padding == "zeros"
    basis = _blur_basis(crops.shape[-1], recipe.kernel_size, crops.device, zeros)
    if recipe.mask_probability == 0:
        masks = None
    elif masks is None:
        raise ValueError(f"`masks` must be given for views with a mask ({recipe.mask!r}).")
    run = _compiled_program() if compiled else _program
    with torch.autocast(crops.device.type, enabled=False):
        return run(crops, plan, basis, recipe, masks)


@lru_cache(maxsize=1)
def _compiled_program() -> Callable[..., Tensor]:
    return torch.compile(_program, fullgraph=True)


def _program(
    crops: Tensor,
    plan: PhotometricPlan,
    basis: Tensor,
    recipe: ViewRecipe,
    masks: Tensor | None = None,
) -> Tensor:
    planes = _planes(crops, plan.order)
    if masks is not None:
        _fill_background(planes, masks[:, 0], plan)
    grayscale = partial(_grayscale, of=_gray if recipe.gray == "luma" else lambda x: x.mean(dim=0))
    if recipe.jitter_position == "after_gray":
        _apply(grayscale, planes, plan.gray)
    if plan.rounds:
        _jitter_in_rounds(planes, plan)
    elif plan.jittered:
        _jitter(planes, plan, with_hue=recipe.jitter[3] > 0)
    # TensorFlow adds the brightness, scales the saturation, then cuts to [0, 1].
    if recipe.brightness_shift > 0:
        planes.add_(plan.brightness[:, None, None])
    if recipe.saturation is not None:
        _saturate(planes, plan.saturation)
    if recipe.brightness_shift > 0 or recipe.saturation is not None:
        planes.clamp_(0, 1)
    gray_follows = recipe.jitter_position == "before_gray"
    if gray_follows and not plan.layers:
        _apply(grayscale, planes, plan.gray)
    if recipe.blur_probability > 0:
        _apply(lambda x, sigma: _blur(x, sigma, basis), planes, plan.blur)
    if recipe.solarize_probability > 0:
        _apply(_solarize, planes, plan.solarize)
    if plan.layers:
        _rand_augment(planes, plan.layers, recipe)
        if gray_follows:
            _apply(grayscale, planes, plan.gray)
    views = planes.transpose(0, 1)
    views = views.contiguous() if plan.restore is None else views.index_select(0, plan.restore)
    if recipe.standardise:
        return standardise(views)
    for channel, (mean, std) in enumerate(zip(recipe.mean, recipe.std, strict=True)):
        if (mean, std) != (0.0, 1.0):
            views[:, channel].sub_(mean).div_(std)
    return views


def _planes(crops: Tensor, order: Tensor | None) -> Tensor:
    """(B, 3, S, S) -> (3, B, S, S) float32, contiguous, in ``order``, not shared with the input."""
    planes = crops.transpose(0, 1)
    if order is not None:
        planes = planes.index_select(1, order)
    elif planes.dtype == torch.float32:
        planes = planes.clone(memory_format=torch.contiguous_format)
    if planes.dtype == torch.uint8:
        planes = planes.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    return planes


def _apply(
    step: Callable[[Tensor, Tensor], Tensor], planes: Tensor, selected: SelectedRows
) -> None:
    """Replace the subset's samples by ``step(samples, strength)``."""
    if selected.rows is None:
        planes.copy_(step(planes, selected.strength))
    elif len(selected):
        changed = step(planes.index_select(1, selected.rows), selected.strength)
        planes.index_copy_(1, selected.rows, changed)


def _fill_background(planes: Tensor, masks: Tensor, plan: PhotometricPlan) -> None:
    """Set the background of the samples that drew it to their grey levels, in place."""
    rows, level = plan.background.rows, plan.background.strength
    masks = masks if plan.order is None else masks.index_select(0, plan.order)
    masks = masks if rows is None else masks.index_select(0, rows)
    replaced = ~masks & (level >= 0)[:, None, None]

    def filled(planes: Tensor, level: Tensor) -> Tensor:
        return torch.where(replaced, level[:, None, None], planes)

    _apply(filled, planes, plan.background)


def _jitter_in_rounds(planes: Tensor, plan: PhotometricPlan) -> None:
    """Apply the jitter in DeepMind's terms, in place."""

    def brightened(planes: Tensor, shift: Tensor) -> Tensor:
        return (planes + shift[:, None, None]).clamp_(0, 1)

    def contrasted(planes: Tensor, factor: Tensor) -> Tensor:
        mean = planes.mean(dim=(2, 3), keepdim=True)
        return torch.lerp(mean, planes, factor[:, None, None]).clamp_(0, 1)

    def saturated(planes: Tensor, factor: Tensor) -> Tensor:
        changed = planes.clone()
        _saturate(changed, factor)
        return changed.clamp_(0, 1)

    def turned(planes: Tensor, shift: Tensor) -> Tensor:
        changed = planes.clone()
        _shift_hue(changed, 6 * shift)
        return changed.clamp_(0, 1)

    steps = {
        "brightness": brightened,
        "contrast": contrasted,
        "saturation": saturated,
        "hue": turned,
    }
    for selected in plan.rounds:
        for name, step in steps.items():
            _apply(step, planes, selected[name])


def _jitter(planes: Tensor, plan: PhotometricPlan, with_hue: bool) -> None:
    for blend in range(BLENDS):
        _blend(planes[:, : plan.before[blend]], plan.blends[0, blend])
    if with_hue:
        _shift_hue(planes[:, : plan.jittered], plan.shift[: plan.jittered])
        for blend in range(BLENDS):
            start = 0 if plan.order is None else plan.before[blend]
            _blend(planes[:, start : plan.jittered], plan.blends[1, blend, :, start:])


def _blend(planes: Tensor, coefficients: Tensor) -> None:
    """clamp(a x + b grey(x) + c mean(grey(x)), 0, 1) in place; coefficients (3, B or more)."""
    count = planes.shape[1]
    if count == 0:
        return
    image, gray, mean_gray = coefficients[:, :count, None, None]
    grays = _gray(planes)
    constant = grays.mean(dim=(1, 2), keepdim=True).mul_(mean_gray)
    planes.mul_(image).add_(grays.mul_(gray).add_(constant)).clamp_(0, 1)


def _gray(planes: Tensor) -> Tensor:
    """(3, B, S, S) -> (B, S, S), with torchvision's weights (ITU-R 601-2)."""
    red, green, blue = planes.unbind()
    return (red * 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)


def _shift_hue(planes: Tensor, shift: Tensor) -> None:
    """Turn the hue in place by ``shift`` (B,) sixths, value and saturation of HSV kept.

    No branches: with a pixel's channels stretched to [0, 1] as R, G, B, its angle from red on the
    hexagon is 1 - R + G + B sixths, towards green where G > B, towards blue otherwise. And each
    channel of the turned pixel is a function of the angular distance from that channel's colour.
    """
    if planes.shape[1] == 0:
        return
    red, green, blue = planes.unbind()
    low = torch.minimum(red, green)
    high = torch.maximum(red, green)
    low, high = torch.minimum(low, blue), torch.maximum(high, blue)
    spread = high - low
    angle = (green + blue).sub_(red).sub_(low).div_(spread.clamp(min=1e-30)).add_(1)
    angle = torch.copysign(angle, green - blue).add_(shift[:, None, None])
    angle.sub_(angle.div(6).round_(), alpha=6)  # to [-3, 3]
    floor = low.sub_(spread)
    for plane, center in zip(planes, (0, 2, -2), strict=True):
        # |d| is at most 5; beyond 3 the way round the other side is the shorter one.
        weight = (angle - center).abs_().sub_(3).abs_().clamp_(1, 2)
        torch.addcmul(floor, spread, weight, out=plane)


def _saturate(planes: Tensor, factor: Tensor) -> None:
    """Multiply the saturation S of HSV by ``factor`` (B,), at most to 1, in place.

    A channel's distance from the highest one is proportional to S at equal hue and value, so no hue
    is needed: x <- V - (V - x) S'/S with S = (V - lowest) / V. As in TensorFlow, values need not be
    in [0, 1]: where the brightness made the lowest negative, S is above 1 and is cut like the
    others. Where all are, TensorFlow has S = 0; its colour and this one are cut to black.
    """
    red, green, blue = planes.unbind()
    high = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    most = high / (high - low).clamp_(min=1e-30)  # 1 / S
    ratio = torch.minimum(most, factor[:, None, None])
    for plane in planes:
        plane.sub_(high).mul_(ratio).add_(high)


def _grayscale(planes: Tensor, strength: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.lerp(planes, of(planes), strength[:, None, None])


def _solarize(planes: Tensor, strength: Tensor) -> Tensor:
    # x >= 0.5 ? 1 - x : x is min(x, 1 - x); with 2 - x, which is never smaller, nothing happens.
    return torch.minimum(planes, (2 - strength)[:, None, None] - planes)


def _rand_augment(
    planes: Tensor, layers: tuple[dict[str, SelectedRows], ...], recipe: ViewRecipe
) -> None:
    """Round to levels and carry out RandAugment's layers on them, in place."""
    fill = [min(255.0, round(255 * mean)) for mean in recipe.mean]
    steps: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "look_up": levels.look_up,
        "autocontrast": levels.autocontrast,
        "equalize": levels.equalize,
        "contrast": levels.contrast,
        "color": levels.color,
        "sharpness": levels.sharpness,
        "bilinear": partial(levels.affine, fill=fill, bicubic=False),
        "bicubic": partial(levels.affine, fill=fill, bicubic=True),
    }
    planes.mul_(255).round_()
    for layer in layers:
        for name, step in steps.items():
            _apply(step, planes, layer[name])
    planes.div_(255)


def _blur(planes: Tensor, sigma: Tensor, basis: Tensor) -> Tensor:
    """Convolve rows and columns with one symmetric kernel each; sigma 0 changes nothing."""
    size = planes.shape[-1]
    distances = torch.arange(len(basis), dtype=torch.float32, device=basis.device)
    # A deviation of a hundredth of a pixel puts all weight on the middle tap.
    taps = torch.exp(-0.5 * (distances / sigma.clamp(min=0.01)[:, None]) ** 2)
    taps = taps / (2 * taps.sum(dim=1, keepdim=True) - 1)
    matrix = (taps @ basis).view(-1, size, size)
    blurred = torch.empty_like(planes)
    for plane, result in zip(planes.unbind(), blurred.unbind(), strict=True):
        half = torch.empty_like(plane)
        for out, of in _bands(size, len(basis) - 1):
            half[:, out] = torch.bmm(matrix[:, out, of], plane[:, of])
        for out, of in _bands(size, len(basis) - 1):
            result[:, :, out] = torch.bmm(half[:, :, of], matrix[:, out, of].mT)
    return blurred


def _bands(size: int, radius: int) -> list[tuple[slice, slice]]:
    """Blocks of results, each with the stretch of pixels within ``radius`` that it depends on."""
    return [
        (
            slice(start, min(start + _BLUR_BLOCK, size)),
            slice(max(start - radius, 0), min(start + _BLUR_BLOCK + radius, size)),
        )
        for start in range(0, size, _BLUR_BLOCK)
    ]


@lru_cache(maxsize=16)
def _blur_basis(size: int, kernel_size: int, device: torch.device, zeros: bool = False) -> Tensor:
    """(taps, S * S): row d sums the pixels at distance d on either side, borders reflected.

    Or, with ``zeros``, without what lies beyond the border.

    The blur's matrix is the combination of these rows with the weights of the taps.
    """
    radius = kernel_size // 2
    places = torch.arange(size)
    basis = torch.zeros(radius + 1, size, size)
    for distance in range(-radius, radius + 1):
        sources = places + distance
        inside = (sources >= 0) & (sources < size)
        sources = torch.where(sources.abs() < size, sources.abs(), 2 * (size - 1) - sources)
        basis[abs(distance), places, sources] += inside.float() if zeros else 1
    return basis.view(radius + 1, -1).to(device, non_blocking=True)

"""The papers' augmentations, as view recipes."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from retable.views.recipe import ViewRecipe

_ZEROS, _HALVES, _ONES = (0.0,) * 3, (0.5,) * 3, (1.0,) * 3


def moco_v1(size: int) -> ViewRecipe:
    """MoCo v1: greyscale first, then jitter always and with a hue of 0.4, no blur.

    Source: He et al. 2020 (MoCo), section 3.3 "Technical details", and the official code's
    ``main_moco.py`` without ``--aug-plus``. The official order puts the flip after the jitter,
    which is the same.
    """
    return replace(
        crop_and_flip(size, (0.2, 1.0)),
        jitter=(0.4, 0.4, 0.4, 0.4),
        jitter_probability=1.0,
        jitter_position="after_gray",
        gray_probability=0.2,
    )


def moco_v2(size: int) -> ViewRecipe:
    """MoCo v2: jitter with p 0.8 and a hue of 0.1, greyscale, blur with p 0.5.

    Source: Chen et al. 2020 (MoCo v2), section 3, and the official code's ``main_moco.py`` with
    ``--aug-plus``. sigma is the radius of PIL's blur there, see `ViewRecipe.kernel_size`.
    """
    return replace(
        crop_and_flip(size, (0.2, 1.0)),
        jitter=(0.4, 0.4, 0.4, 0.1),
        jitter_probability=0.8,
        gray_probability=0.2,
        blur_probability=0.5,
    )


def simclr(size: int, strength: float = 1.0) -> ViewRecipe:
    """SimCLR at colour ``strength`` 1.0 (the ImageNet default; CIFAR-10 used 0.5 and no blur).

    Source: Chen et al. 2020 (SimCLR), appendix A: scale (0.08, 1), jitter (0.8, 0.8, 0.8, 0.2)
    times the strength with p 0.8, greyscale 0.2, blur with p 0.5, sigma in (0.1, 2) and a kernel
    of a tenth of the side. The published TensorFlow code does not normalise; here the ImageNet
    statistics are used as in the PyTorch ports.
    """
    s = strength
    return replace(
        moco_v2(size),
        crop_scale=(0.08, 1.0),
        jitter=(0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s),
        blur_kernel=_tenth_of(size),
    )


def byol(size: int) -> tuple[ViewRecipe, ViewRecipe]:
    """BYOL's two views: blur with p 1.0 and 0.1, solarise with p 0.0 and 0.2.

    Source: Grill et al. 2020 (BYOL), appendix B, table 6: bicubic crops of scale (0.08, 1), jitter
    (0.4, 0.4, 0.2, 0.1) with p 0.8, greyscale 0.2. The jitter has torchvision's semantics, like
    the PyTorch ports; DeepMind's own code adds to the brightness, takes the contrast about each
    channel's mean and scales the saturation in HSV. The blur there pads with zeros.
    """
    first, second = (
        replace(
            simclr(size),
            interpolation="bicubic",
            jitter=(0.4, 0.4, 0.2, 0.1),
            blur_probability=blur,
            solarize_probability=solarize,
        )
        for blur, solarize in ((1.0, 0.0), (0.1, 0.2))
    )
    return first, second


def swav(size: int, small_size: int, small_crops: int = 6) -> tuple[ViewRecipe, ...]:
    """SwAV's multi-crop: two crops of most of an image, then small ones of small parts of it.

    Source: Caron et al. 2020 (SwAV), section 3.2, and the official code's
    ``multicropdataset.py``: ``swav(224, 96)``, scales (0.14, 1) and (0.05, 0.14), jitter
    (0.8, 0.8, 0.8, 0.2) with p 0.8, greyscale 0.2, blur with p 0.5 and PIL's radius, see
    `ViewRecipe.kernel_size`. The code divides red by 0.228, here by ImageNet's 0.229.
    """
    large, small = (
        replace(moco_v2(side), crop_scale=scale, jitter=(0.8, 0.8, 0.8, 0.2))
        for side, scale in ((size, (0.14, 1.0)), (small_size, (0.05, 0.14)))
    )
    return (large,) * 2 + (small,) * small_crops


def infomin(size: int) -> ViewRecipe:
    """InfoMin's view: strong jitter with p 0.8, blur with p 0.5, RandAugment, greyscale.

    Source: augmentation "D" of PyContrast, the official code of Tian et al. 2020 (InfoMin), with
    the crops of methods that have a queue: scale (0.2, 1), jitter (0.8, 0.8, 0.8, 0.2), blur with
    23 taps at 224 pixels, here a tenth of the side, RandAugment with n 2, magnitude 10 and standard
    deviation 0.5, greyscale 0.2, in this order.
    """
    return replace(
        moco_v2(size),
        jitter=(0.8, 0.8, 0.8, 0.2),
        blur_kernel=_tenth_of(size),
        rand_augment=(2, 10.0, 0.5),
    )


def jigsaw(size: int = 255) -> ViewRecipe:
    """InfoMin's view that is cut into a jigsaw: large crops and flips, colours untouched.

    Source: PyContrast, the official code of Tian et al. 2020 (InfoMin): scale (0.6, 1), 255 pixels
    for 3 x 3 cells of 85.
    """
    return crop_and_flip(size, (0.6, 1.0))


def inception(
    size: int,
    scale: tuple[float, float] = (0.05, 1.0),
    *,
    standardise: bool = False,
    gray_probability: float = 0.0,
) -> ViewRecipe:
    """Inception's crops and colours, values in [-1, 1]: Rotation, and Exemplar's views.

    Source: Szegedy et al. 2015 as in TF-slim's ``inception_preprocessing.py`` in its fast mode,
    which the official code of Kolesnikov et al. 2019 runs: TensorFlow's crops of area (0.05, 1) and
    aspect (0.75, 1.33), of which those below 0.1 are rejected, flips, brightness +-32/255,
    saturation (0.5, 1.5). The resize there is bilinear without antialiasing, here with it.

    For Exemplar ``standardise`` with a ``gray_probability`` of 0.66, from the same code's
    ``config/exemplar``: the channels' mean, decided once for all views of an image and before
    their colours.
    """
    return ViewRecipe(
        size,
        crop_scale=scale,
        crop_ratio=(0.75, 1.33),
        crop_sampling="tensorflow",
        flip_probability=0.5,
        jitter_position="after_gray",
        brightness_shift=32 / 255,
        saturation=(0.5, 1.5),
        gray_probability=gray_probability,
        gray="mean",
        gray_shared=gray_probability > 0,
        mean=_HALVES,
        std=_HALVES,
        standardise=standardise,
    )


def patch_tasks(
    size: int = 255, resize: int = 292, *, gray_probability: float = 2 / 3
) -> ViewRecipe:
    """View that is cut into patches, values in [0, 1]: Jigsaw and Relative Patch Location.

    Source: Kolesnikov et al. 2019: 292 x 292 pixels whatever the aspect, grey by the channels'
    mean, a random window of 255, neither flips nor colours. The supplement says grey with
    probability 1/3, the official code's ``config/jigsaw`` 0.66. `retable.nn.patches.cut_patches`
    standardises each patch, not the view.
    """
    return ViewRecipe(
        size,
        resize=resize,
        keep_aspect=False,
        window="random",
        gray_probability=gray_probability,
        gray="mean",
        mean=_ZEROS,
        std=_ONES,
    )


def resized_crop(
    size: int,
    resize: int,
    window: Literal["center", "random"] = "center",
    *,
    standardise: bool = False,
) -> ViewRecipe:
    """Resize the short side and cut a window out, values in [-1, 1]: to evaluate `inception`.

    Source: Kolesnikov et al. 2019, supplement: ``resized_crop(224, 256)`` to test,
    ``resized_crop(224, 256, "random")`` to train the linear layer, neither flips nor colours. The
    official code resizes by areas, here the filter is bilinear with antialiasing; it has no
    ``standardise`` here either, though Exemplar's encoder was trained on standardised views.
    """
    return ViewRecipe(
        size, resize=resize, window=window, mean=_HALVES, std=_HALVES, standardise=standardise
    )


def patch_evaluation(
    size: int = 192, resize: int = 255, window: Literal["center", "random"] = "center"
) -> ViewRecipe:
    """View that is cut into patches to evaluate the encoders of `patch_tasks`, in [0, 1].

    Source: Kolesnikov et al. 2019, supplement: 255 x 255 pixels, of which the central 192 are 3 x 3
    patches of 64; the official code trains the linear layer on a random window.
    """
    return ViewRecipe(size, resize=resize, keep_aspect=False, window=window, mean=_ZEROS, std=_ONES)


def crop_and_flip(size: int, scale: tuple[float, float] = (0.08, 1.0)) -> ViewRecipe:
    """Random crop and flip only: supervised training and the linear probe.

    Source: Szegedy et al. 2015 as in torchvision's ImageNet reference and the official MoCo code's
    ``main_lincls.py``; the scale is `RandomResizedCrop`'s default.
    """
    return ViewRecipe(size, crop_scale=scale, flip_probability=0.5)


def center(size: int, resize: int | None = None) -> ViewRecipe:
    """Resize the short side and cut out the centre: the view that is tested on, nothing random.

    ``resize`` is in pixels, by default ``size``; ImageNet's convention is ``center(224, 256)``.
    """
    return ViewRecipe(size, resize=resize)


def tested_center(size: int) -> ViewRecipe:
    """Return `center` of an image resized to 8/7 of the size, ImageNet's 256 for 224.

    Below 96 pixels, where ImageNet's convention is not in use, the image is resized to the size.
    """
    return center(size, round(size * 8 / 7) if size >= 96 else size)


def without_draws(view: ViewRecipe) -> ViewRecipe:
    """Return the view to test on where encoders are trained on ``view``: nothing is random.

    It is the `tested_center` of the same size and with the same normalisation.
    """
    tested = tested_center(view.size)
    return replace(tested, mean=view.mean, std=view.std, standardise=view.standardise)


def _tenth_of(size: int) -> int:
    # 224: 23, 96: 9, 32: 3, as in SimCLR's and BYOL's published code.
    return 2 * (size // 20) + 1

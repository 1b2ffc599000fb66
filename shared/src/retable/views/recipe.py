"""Recipes of views: the augmentations of the papers as plain values.

Those of the papers are in `retable.views.augmentations`. `retable.views.sampling` draws from a
recipe; `retable.views.cropping` and `retable.views.colours` apply the draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from retable.domains import Finite, NonNegative, Pixels, Positive, Probability, Share, Small
from retable.errors import UserError
from retable.settings import validate_fields

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

LEAST_COVERED = 0.1
"""``min_object_covered`` of TensorFlow's random crops, where the object is the image itself."""


@dataclass(frozen=True)
class ViewRecipe:
    """How one view of an image is made, in torchvision's terms and some of TensorFlow's.

    The order of the steps is crop, resize, flip, background, colour jitter and greyscale (which of
    the two comes first is ``jitter_position``), Gaussian blur, solarise, RandAugment, normalise;
    greyscale after the jitter comes after RandAugment, where there is one. Every step after the
    crop works on values in [0, 1], but RandAugment, which rounds them to the 256 levels of 8-bit
    images and computes with these. TensorFlow's brightness and saturation come right after the
    jitter, with one cut to [0, 1] after the two. The defaults switch every random step off.

    Attributes:
        size: side of the square view in pixels.
        crop_scale: share of the image's area that `RandomResizedCrop` draws from, or None for no
            random crop: then the short side is resized to ``resize`` and a window is cut out.
        crop_ratio: bounds of the crop's width over height.
        crop_sampling: draw the crop's area uniformly and its aspect uniformly in the logarithm,
            "torchvision", or its aspect and then its height uniformly, like "tensorflow"'s
            ``sample_distorted_bounding_box``, which takes no crop of less than a tenth of the image
            and, where none fits, the image itself; "deepmind" draws as torchvision, but once, and
            cuts sides to those of the image; only with ``crop_scale``.
        resize: short side before the window is cut out, in pixels; only without ``crop_scale``
            (None means ``size``).
        keep_aspect: False resizes both sides to ``resize``; only without ``crop_scale``.
        window: which size x size pixels of the resized image are the view, its "center" or a
            "random" place; only without ``crop_scale``.
        interpolation: filter of the antialiased resize.
        jitter: strengths of brightness, contrast, saturation (factors drawn from
            [max(0, 1 - strength), 1 + strength]) and hue (shift from [-strength, strength], in
            turns, at most 0.5), applied in random order as torchvision's `ColorJitter` does, or not
            at all.
        jitter_terms: what the jitter does, see ``jitter``, in "torchvision"'s terms, or in those of
            "deepmind"'s code of BYOL: a change of the brightness from [-strength, strength] is
            added, contrast is about each channel's mean, saturation is HSV's; values are cut to
            [0, 1] after each of the four.
        jitter_position: jitter "before_gray" or "after_gray".
        brightness_shift: largest change of the brightness, drawn from [-shift, shift] and added.
        saturation: bounds of the factor of HSV's saturation, which is cut to [0, 1] then; None for
            no change.
        gray: the grey of a pixel, its "luma" (ITU-R 601-2) or the "mean" of its channels.
        gray_shared: whether all views of an image are grey in the same epochs, as if the image were
            made grey before they are cut out of it; with ``jitter_position`` "after_gray" it is
            the same but for rounding, since channels are averaged pixel by pixel and cropping and
            resizing treat them alike.
        blur_sigma: bounds of the blur's standard deviation, in pixels of the view.
        blur_kernel: number of taps, odd and below twice the size. None takes three
            ``blur_sigma[1]`` on either side, see `kernel_size`.
        blur_padding: what lies beyond the border for the blur, the view reflected or zeros, which
            darken it ("SAME" padding).
        solarize_probability: probability that values of at least 0.5 are inverted.
        rand_augment: number of layers, magnitude in [0, 10] and its standard deviation, see
            `retable.views.rand_augment`; what comes into view from outside has the colour ``mean``.
        mean: subtracted from each channel at the end.
        std: divides each channel at the end.
        standardise: instead of ``mean`` and ``std`` take each view's own, over channels and pixels
            jointly, see `retable.nn.patches.standardise`.
        layers: names of further layers of the data set (`retable.data.source.LayerKind`) that are
            cut with the view's own parameters and come with it in `Batch.layers`.
        mask: name of a map of the data set that is positive in the foreground, "" for none.
        mask_probability: probability that the background becomes one level of grey, drawn from
            [0, 1]; only with ``mask``.
        mask_change: name of a change of the mask and its number (`retable.views.masks`), None for
            the mask itself.
        least_foreground: share of the image, before it is cut, that the foreground must have;
            otherwise the background stays.
    """

    size: Pixels
    crop_scale: tuple[Share, Share] | None = None
    crop_ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    crop_sampling: Literal["torchvision", "tensorflow", "deepmind"] = "torchvision"
    resize: Pixels | None = None
    keep_aspect: bool = True
    window: Literal["center", "random"] = "center"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    flip_probability: Probability = 0.0
    jitter: tuple[NonNegative, NonNegative, NonNegative, NonNegative] = (0.0, 0.0, 0.0, 0.0)
    jitter_probability: Probability = 0.0
    jitter_terms: Literal["torchvision", "deepmind"] = "torchvision"
    jitter_position: Literal["before_gray", "after_gray"] = "before_gray"
    brightness_shift: NonNegative = 0.0
    saturation: tuple[NonNegative, NonNegative] | None = None
    gray_probability: Probability = 0.0
    gray: Literal["luma", "mean"] = "luma"
    gray_shared: bool = False
    blur_probability: Probability = 0.0
    blur_sigma: tuple[Positive, Positive] = (0.1, 2.0)
    blur_kernel: Pixels | None = None
    blur_padding: Literal["reflect", "zeros"] = "reflect"
    solarize_probability: Probability = 0.0
    rand_augment: tuple[Small, NonNegative, NonNegative] | None = None
    mean: tuple[Finite, Finite, Finite] = IMAGENET_MEAN
    std: tuple[Positive, Positive, Positive] = IMAGENET_STD
    standardise: bool = False
    layers: tuple[str, ...] = ()
    mask: str = ""
    mask_probability: Probability = 0.0
    mask_change: tuple[str, Finite] | None = None
    least_foreground: Probability = 0.0

    def __post_init__(self) -> None:
        validate_fields(self)
        scale = self.crop_scale
        if scale is not None:
            self._require("crop_scale", _increasing(scale), f"{_BOUNDS} <= 1")
            for name, without in (("resize", None), ("keep_aspect", True), ("window", "center")):
                holds = getattr(self, name) == without
                self._require(name, holds, f"{without} with a crop_scale")
        holds = self.resize is None or self.resize >= self.size
        self._require("resize", holds, "at least the size")
        self._require("crop_ratio", _increasing(self.crop_ratio), _BOUNDS)
        if self.crop_sampling == "tensorflow":
            holds = scale is not None and scale[1] >= LEAST_COVERED
            expected = f"two shares, the second at least {LEAST_COVERED}, for TensorFlow's sampling"
            self._require("crop_scale", holds, expected)
        expected = "four strengths from 0 on, the fourth (hue) at most 0.5"
        self._require("jitter", self.jitter[3] <= 0.5, expected)
        if self.saturation is not None:
            self._require("saturation", _increasing(self.saturation), "0 <= low <= high")
        self._require("blur_sigma", _increasing(self.blur_sigma), _BOUNDS)
        if self.blur_kernel is not None:
            holds = self.blur_kernel % 2 == 1 and self.blur_kernel < 2 * self.size
            self._require("blur_kernel", holds, "an odd number of taps below twice the size")
        holds = bool(self.mask) or self.mask_probability == 0
        self._require("mask", holds, "a layer of the data set, for a mask_probability")
        if self.rand_augment is not None:
            holds = self.rand_augment[1] <= 10
            expected = "at least one layer, a magnitude from 0 to 10, and its standard deviation"
            self._require("rand_augment", holds, expected)

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise UserError(f"`{name}` of a view must be {expected}, got {getattr(self, name)}.")

    @property
    def is_random(self) -> bool:
        """Whether views of an image differ from key to key: an evaluation's then are not kept."""
        return (
            self.crop_scale is not None
            or self.window == "random"
            or any(getattr(self, f"{step}_probability") > 0 for step in _STEPS)
            or self.rand_augment is not None
            or self.brightness_shift > 0
            or self.saturation is not None
        )

    @property
    def kernel_size(self) -> int:
        """Taps of the blur: `blur_kernel`, or 2 ceil(3 sigma_max) + 1, as far as the size allows.

        Papers that blur with PIL give a radius only, and PIL's ``GaussianBlur(radius)`` is no
        truncated Gaussian but three box filters of about that deviation. Three deviations on
        either side keep all but 0.3 % of a Gaussian's weight; more taps bring it no closer to PIL.
        Away from the border (PIL repeats it, torchvision reflects it) the two then differ, on
        pictures that are smooth over a few pixels, by at most 1 grey level of 255 in the root mean
        square and 4 at most; on white noise by 5 at most from a deviation of 1 on. Below 0.5 PIL
        blurs white noise more than a sampled Gaussian does.
        """
        if self.blur_kernel is not None:
            return self.blur_kernel
        # Reflection needs the padding to be smaller than the side.
        return 2 * min(math.ceil(3 * self.blur_sigma[1]), self.size - 1) + 1


_STEPS = ("flip", "mask", "jitter", "gray", "blur", "solarize")
_BOUNDS = "0 < low <= high"


def _increasing(bounds: tuple[float, ...]) -> bool:
    return bounds[0] <= bounds[1]

"""Recipes of views: the augmentations of the papers as plain values.

A recipe names the random crop and the photometric steps of a view, and their strengths.
It holds only numbers, words and tuples, so that it can be written to JSON, hashed and compared;
those of the papers are in `retable.views.augmentations`. `retable.views.sampling` draws from it;
`retable.views.cropping` and `retable.views.colours` apply the draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from retable.errors import UserError
from retable.settings import validate_choices

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

LEAST_COVERED = 0.1
"""``min_object_covered`` of TensorFlow's random crops, where the object is the image itself."""


@dataclass(frozen=True)
class ViewRecipe:
    """How one view of an image is made, in torchvision's terms and some of TensorFlow's.

    The order of the steps is crop, resize, flip, colour jitter and greyscale (which of the two
    comes first is ``jitter_position``), Gaussian blur, solarise, RandAugment, normalise; greyscale
    after the jitter comes after RandAugment, where there is one. Every step after the crop works on
    values in [0, 1], but RandAugment, which rounds them to the 256 levels of 8-bit images and
    computes with these. TensorFlow's brightness and saturation come right after the jitter, with
    one cut to [0, 1] after the two. The defaults switch every random step off.

    Attributes:
        size: side of the square view in pixels.
        crop_scale: share of the image's area that `RandomResizedCrop` draws from, or None for no
            random crop: then the short side is resized to ``resize`` and a window is cut out.
        crop_ratio: bounds of the crop's width over height.
        crop_sampling: draw the crop's area uniformly and its aspect uniformly in the logarithm,
            "torchvision", or its aspect and then its height uniformly, like "tensorflow"'s
            ``sample_distorted_bounding_box``, which takes no crop of less than a tenth of the image
            and, where none fits, the image itself; only with ``crop_scale``.
        resize: short side before the window is cut out, in pixels; only without ``crop_scale``
            (None means ``size``).
        keep_aspect: False resizes both sides to ``resize``; only without ``crop_scale``.
        window: which size x size pixels of the resized image are the view, its "center" or a
            "random" place; only without ``crop_scale``.
        interpolation: filter of the antialiased resize.
        flip_probability: probability of a horizontal flip.
        jitter: strengths of brightness, contrast, saturation (factors drawn from
            [max(0, 1 - strength), 1 + strength]) and hue (shift from [-strength, strength], in
            turns, at most 0.5), applied in random order as torchvision's `ColorJitter` does.
        jitter_probability: probability that a view is jittered at all.
        jitter_position: jitter "before_gray" or "after_gray".
        brightness_shift: largest change of the brightness, drawn from [-shift, shift] and added.
        saturation: bounds of the factor of HSV's saturation, which is cut to [0, 1] then; None for
            no change.
        gray_probability: probability of greyscale.
        gray: the grey of a pixel, its "luma" (ITU-R 601-2) or the "mean" of its channels.
        gray_shared: whether all views of an image are grey in the same epochs, as if the image were
            made grey before they are cut out of it; with ``jitter_position`` "after_gray" it is
            the same but for rounding, since channels are averaged pixel by pixel and cropping and
            resizing treat them alike.
        blur_probability: probability of Gaussian blur.
        blur_sigma: bounds of the blur's standard deviation, in pixels of the view.
        blur_kernel: number of taps, odd and below twice the size. None takes three
            ``blur_sigma[1]`` on either side, see `kernel_size`.
        solarize_probability: probability that values of at least 0.5 are inverted.
        rand_augment: number of layers, magnitude in [0, 10] and its standard deviation, see
            `retable.views.rand_augment`; what comes into view from outside has the colour ``mean``.
        mean: subtracted from each channel at the end.
        std: divides each channel at the end.
        standardise: instead of ``mean`` and ``std`` take each view's own, over channels and pixels
            jointly, see `retable.nn.patches.standardise`.
        layers: names of further layers of the data set (`retable.data.source.LayerKind`) that are
            cut with the view's own parameters and come with it in `Batch.layers`.

    Raises:
        UserError: a value out of range, named.
    """

    size: int
    crop_scale: tuple[float, float] | None = None
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    crop_sampling: Literal["torchvision", "tensorflow"] = "torchvision"
    resize: int | None = None
    keep_aspect: bool = True
    window: Literal["center", "random"] = "center"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    flip_probability: float = 0.0
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    jitter_probability: float = 0.0
    jitter_position: Literal["before_gray", "after_gray"] = "before_gray"
    brightness_shift: float = 0.0
    saturation: tuple[float, float] | None = None
    gray_probability: float = 0.0
    gray: Literal["luma", "mean"] = "luma"
    gray_shared: bool = False
    blur_probability: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    blur_kernel: int | None = None
    solarize_probability: float = 0.0
    rand_augment: tuple[int, float, float] | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    standardise: bool = False
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in _TUPLES:
            value = getattr(self, name)
            if value is not None:  # JSON brings lists; a recipe must stay hashable
                object.__setattr__(self, name, tuple(value))
        validate_choices(self)
        self._check_geometry()
        self._check_photometry()

    def _check_geometry(self) -> None:
        _require(self.size >= 1, "size", self.size, "a positive number of pixels")
        if self.crop_scale is not None:
            _require(_increasing(self.crop_scale, 1.0), "crop_scale", self.crop_scale, _SCALE)
            for name, without in (("resize", None), ("keep_aspect", True), ("window", "center")):
                value = getattr(self, name)
                _require(value == without, name, value, f"{without} with a crop_scale")
        if self.resize is not None:
            _require(self.resize >= self.size, "resize", self.resize, "at least the size")
        _require(_increasing(self.crop_ratio), "crop_ratio", self.crop_ratio, "0 < low <= high")
        if self.crop_sampling == "tensorflow":
            _require(
                self.crop_scale is not None and self.crop_scale[1] >= LEAST_COVERED,
                "crop_scale",
                self.crop_scale,
                f"two shares, the second at least {LEAST_COVERED}, for TensorFlow's sampling",
            )

    def _check_photometry(self) -> None:
        for step in ("flip", "jitter", "gray", "blur", "solarize"):
            value = getattr(self, f"{step}_probability")
            _require(0 <= value <= 1, f"{step}_probability", value, "a probability")
        _require(
            len(self.jitter) == 4 and min(self.jitter) >= 0 and self.jitter[3] <= 0.5,
            "jitter",
            self.jitter,
            "four strengths from 0 on, the fourth (hue) at most 0.5",
        )
        _require(self.brightness_shift >= 0, "brightness_shift", self.brightness_shift, "0 or more")
        if self.saturation is not None:
            holds = len(self.saturation) == 2 and 0 <= self.saturation[0] <= self.saturation[1]
            _require(holds, "saturation", self.saturation, "0 <= low <= high")
        _require(_increasing(self.blur_sigma), "blur_sigma", self.blur_sigma, "0 < low <= high")
        if self.blur_kernel is not None:
            _require(
                self.blur_kernel % 2 == 1 and 0 < self.blur_kernel < 2 * self.size,
                "blur_kernel",
                self.blur_kernel,
                "an odd number of taps below twice the size",
            )
        if self.rand_augment is not None:
            _require(
                len(self.rand_augment) == 3
                and self.rand_augment[0] >= 1
                and 0 <= self.rand_augment[1] <= 10
                and self.rand_augment[2] >= 0,
                "rand_augment",
                self.rand_augment,
                "at least one layer, a magnitude from 0 to 10, and its standard deviation",
            )
        _require(len(self.mean) == 3, "mean", self.mean, "one number for each channel")
        _require(len(self.std) == 3 and min(self.std) > 0, "std", self.std, "three above zero")

    @property
    def is_random(self) -> bool:
        """Whether views of an image differ from key to key: an evaluation's then are not kept."""
        steps = ("flip", "jitter", "gray", "blur", "solarize")
        return (
            self.crop_scale is not None
            or self.window == "random"
            or any(getattr(self, f"{step}_probability") > 0 for step in steps)
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


_TUPLES = (
    "crop_scale",
    "crop_ratio",
    "jitter",
    "saturation",
    "blur_sigma",
    "rand_augment",
    "mean",
    "std",
    "layers",
)
_SCALE = "0 < low <= high <= 1"


def _increasing(bounds: tuple[float, ...], highest: float = math.inf) -> bool:
    return len(bounds) == 2 and 0 < bounds[0] <= bounds[1] <= highest


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise UserError(f"`{name}` of a view must be {expected}, got {value}.")

import pytest

from relicv2.views import views
from retable.errors import UserError


def test_views_are_those_of_table_16() -> None:
    made = views(mask="mask", mask_probability=0.1)
    assert [view.size for view in made] == [224, 224, 224, 224, 96, 96]
    assert [view.crop_scale for view in made] == [
        *[(0.14, 1.0), (0.08, 1.0)] * 2,
        *[(0.05, 0.14)] * 2,
    ]
    assert [view.blur_probability for view in made] == [0.1, 1.0] * 3
    assert [view.solarize_probability for view in made] == [0.2, 0.0] * 3
    assert [view.blur_kernel for view in made] == [23] * 4 + [9] * 2
    assert {view.jitter for view in made} == {(0.4, 0.4, 0.2, 0.1)}
    assert {view.jitter_probability for view in made} == {0.8}
    assert {view.gray_probability for view in made} == {0.2}
    assert {view.flip_probability for view in made} == {0.5}
    assert [view.mask_probability for view in made] == [0.1] * 4 + [0.0] * 2


def test_views_differ_from_torchvision_s_as_those_of_the_official_code() -> None:
    made = views(mask="mask", mask_probability=0.1, mask_change=("added", 0.2))
    for view in made:
        assert view.interpolation == "bicubic"
        assert view.crop_sampling == "deepmind"
        assert view.crop_ratio == (3 / 4, 4 / 3)
        assert view.jitter_terms == "deepmind"
        assert view.blur_sigma == (0.1, 2.0)
        assert view.blur_padding == "zeros"
    assert [view.mask_change for view in made] == [("added", 0.2)] * 4 + [None] * 2
    assert [view.least_foreground for view in made] == [0.05] * 4 + [0.0] * 2


@pytest.mark.parametrize(("size", "taps"), [(64, 7), (32, 3), (28, 3), (16, 1)])
def test_the_blur_follows_the_size_of_the_view(size: int, taps: int) -> None:
    assert views(1, 0, size=size)[0].blur_kernel == taps


def test_there_must_be_a_large_view() -> None:
    with pytest.raises(UserError, match="`large` must be at least 1"):
        views(0, 2)
    with pytest.raises(UserError, match="`mask` of a view must be a layer"):
        views(mask_probability=0.1)
    with pytest.raises(UserError, match="`mask` must be a layer for the mask change"):
        views(mask_change=("added", 0.2))

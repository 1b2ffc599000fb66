import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retable.data.source import Source
from retable.data.sources import open_source
from retable.encoders import EncoderRecipe, build_encoder
from retable.errors import UserError
from retable.evaluate.classifier import accuracy
from retable.evaluate.evaluation import Where, open_splits
from retable.evaluate.features import extract
from retable.evaluate.linear import LinearProbe
from retable.evaluate.logistic import LogisticProbe
from retable.evaluate.ood import OutOfDistribution, summary

PROBES = (
    LinearProbe(lr=0.1, batch=32, epochs=2, milestones=(1,)),
    LogisticProbe(l2=(0.1,), iterations=30),
)


def open_shapes(split: str, variant: str | None = None, data: str | None = None) -> Source:
    more = "" if variant is None else f"&variant={variant}"
    return open_source(f"shapes?count=160&test_count=80&classes=4{more}", split)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5), st.floats(0, 100)), min_size=1)
)
def test_kinds_weigh_equally_whatever_their_number_of_severities(
    draws: list[tuple[str, int, float]],
) -> None:
    # Reference: the mean over kinds of the mean over severities, in plain loops.
    values = {f"corrupted:{kind}:{severity}": value for kind, severity, value in draws}
    means = []
    for kind in sorted({name.split(":")[1] for name in values}):
        chosen = [value for name, value in values.items() if name.split(":")[1] == kind]
        means.append(sum(chosen) / len(chosen))
        assert summary(values)[f"corrupted:{kind}"] == pytest.approx(means[-1])
    assert summary(values | {"sketch": 0.0})["corrupted"] == pytest.approx(sum(means) / len(means))


@pytest.mark.parametrize("probe", PROBES)
def test_variants_are_judged_by_the_probe_of_clean_images(
    probe: LinearProbe | LogisticProbe,
) -> None:
    # Reference: the same probe applied by hand to the variant's features.
    encoder = build_encoder(EncoderRecipe("small_resnet8", width=0.5), key=0)
    evaluation = OutOfDistribution(probe, ("silhouette", "clean"))
    results = evaluation.run(encoder, open_shapes, Where("cpu"), seed=0)
    classifier, clean = probe.fit(encoder, open_splits(open_shapes), Where("cpu"), seed=0)
    source = open_shapes("test", "silhouette")
    found = extract(encoder, source, probe.test_view_of(source), device="cpu")
    expected = accuracy(classifier(found.features), found.labels)["top1"]
    assert results == {"clean": clean["top1"], "silhouette": expected}


def test_a_variant_with_other_classes_ends_with_a_sentence() -> None:
    def open_other(split: str, variant: str | None = None, data: str | None = None) -> Source:
        return open_shapes(split, None) if variant is None else open_source("shapes", split)

    encoder = torch.nn.Flatten()
    with pytest.raises(UserError, match="'sketch' has other classes"):
        OutOfDistribution(PROBES[1], ("sketch",)).run(encoder, open_other, Where("cpu"), seed=0)

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retable.data.source import Source
from retable.data.sources import open_source
from retable.encoders import ResNetRecipe
from retable.errors import UserError
from retable.evaluate.classifier import accuracy
from retable.evaluate.data import EvalData, open_eval_splits, open_splits, source_opener
from retable.evaluate.features import represent
from retable.evaluate.frozen import freeze
from retable.evaluate.linear import LinearProbe
from retable.evaluate.logistic.probe import LogisticProbe
from retable.evaluate.ood import OutOfDistribution, summary
from retable.evaluate.protocol import EvalContext
from retable.evaluate.representation import Representation
from retable.views import center

PROBES = (
    LinearProbe(lr=0.1, batch=32, epochs=2, milestones=(1,)),
    LogisticProbe(l2=(0.1,), iterations=30),
)


open_shapes = source_opener("shapes?count=160&test_count=80&classes=4")


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
    encoder = ResNetRecipe("small_resnet8", width=0.5).build(rng_key=0)
    evaluation = OutOfDistribution(probe, ("silhouette", "clean"))
    results = evaluation.run(encoder, open_shapes, EvalContext("cpu"), seed=0)
    classifier, clean = probe.fit(encoder, open_splits(open_shapes), EvalContext("cpu"), seed=0)
    source = open_shapes("test", "silhouette")
    view, context = probe.test_view_of(source), EvalContext("cpu")
    found = represent(freeze(encoder, "cpu"), source, view, Representation(), context)["pre_logits"]
    expected = accuracy(classifier(found.features), found.labels)["top1"]
    assert results == {"clean": clean["top1"], "silhouette": expected}


def test_the_probes_last_layer_data_and_share_of_the_labels_count(tmp_path: Path) -> None:
    asked: list[object] = []

    def opened(split: str, variant: str | None = None, data: str | None = None) -> Source:
        asked.append((split, variant, data))
        return open_shapes(split, variant)

    encoder = ResNetRecipe("small_resnet8", width=0.5).build(rng_key=0)
    representation = Representation(("layer1", "layer2"), max_features=200)
    probe = LogisticProbe(
        l2=(0.1,), iterations=30, representation=representation, data=EvalData("other", labels=0.5)
    )
    context = EvalContext("cpu", features=tmp_path)
    results = OutOfDistribution(probe, ("silhouette",)).run(encoder, opened, context, seed=0)
    assert asked == [
        ("train", None, "other"),
        ("test", None, "other"),
        ("test", "silhouette", "other"),
    ]
    assert len(list(tmp_path.iterdir())) == 2, "features of the variant are not kept"
    splits = open_eval_splits(open_shapes, EvalData(labels=0.5))
    last = replace(probe, representation=replace(representation, taps=("layer2",)))
    classifier, clean = last.fit(encoder, splits, EvalContext("cpu"), seed=0)
    source = open_shapes("test", "silhouette")
    frozen = freeze(encoder, "cpu")
    found = represent(frozen, source, center(32), last.representation, EvalContext("cpu"))["layer2"]
    expected = accuracy(classifier(found.features), found.labels)["top1"]
    assert results == pytest.approx({"clean": clean["top1"], "silhouette": expected}, abs=1.3)


def test_images_held_out_of_training_have_no_variants() -> None:
    with pytest.raises(UserError, match="must be 'test', got 'validation'"):
        OutOfDistribution(LogisticProbe(data=EvalData(split="validation")))


def test_a_variant_with_other_classes_ends_with_a_sentence() -> None:
    def open_other(split: str, variant: str | None = None, data: str | None = None) -> Source:
        return open_shapes(split, None) if variant is None else open_source("shapes", split)

    encoder = torch.nn.Flatten()
    with pytest.raises(UserError, match="'sketch' has other classes"):
        OutOfDistribution(PROBES[1], ("sketch",)).run(
            encoder, open_other, EvalContext("cpu"), seed=0
        )

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from retable.data.shapes.dataset import Shapes
from retable.data.shapes.roles import open_role
from retable.data.source import Source
from retable.data.sources import open_source
from retable.data.subsets import Subset
from retable.encoders import ResNetRecipe
from retable.errors import UserError
from retable.evaluate import ood
from retable.evaluate.classifier import accuracy
from retable.evaluate.data import EvalData, open_eval_splits, open_splits, source_opener
from retable.evaluate.features import represent
from retable.evaluate.frozen import freeze
from retable.evaluate.linear import LinearProbe
from retable.evaluate.logistic.probe import LogisticProbe
from retable.evaluate.ood import OutOfDistribution, summary
from retable.evaluate.ood_sets import OodSet, all_roles, parse_set
from retable.evaluate.protocol import EvalContext
from retable.evaluate.representation import Representation
from retable.views import ViewRecipe, center

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


# Sets


def test_variants_of_shapes_stand_for_the_published_sets() -> None:
    encoder = ResNetRecipe("small_resnet8", width=0.5).build(rng_key=0)
    context = EvalContext("cpu")
    evaluation = OutOfDistribution(PROBES[1], sets=all_roles())
    found = evaluation.run(encoder, open_shapes, context, seed=0)
    assert list(found) == list(evaluation.metrics)
    variants = OutOfDistribution(PROBES[1]).run(encoder, open_shapes, context, seed=0)
    # Equal code would not notice a wrong role: these are names of the data set, written out.
    for name, variant in {
        "c": "corrupted",
        "c_elastic_transform": "corrupted:elastic",
        "c_jpeg_compression:3": "corrupted:jpeg:3",
        "c_fog:1": "corrupted:fog:1",
        "r": "recoloured",
        "sketch": "sketch",
        "stylized": "texture_swapped",
        "texture": "texture_only",
    }.items():
        assert found[name] == pytest.approx(variants[variant]), name
    kinds = {name.split(":")[1] for name in variants if name.endswith(":4")}
    fourth = [variants[f"corrupted:{kind}:4"] for kind in kinds]
    assert found["c_severity_4"] == pytest.approx(sum(fourth) / 15)
    assert found["r"] == found["r_masked"]  # every class is one of the set's
    assert 0 <= found["texture_classes_below_2.5"] + found["texture_classes_above_50"] <= 4
    # With one class in each category, a decision by shape is a right answer.
    assert found["cue_conflict_shape"] == pytest.approx(found["stylized"])
    assert found["cue_conflict_shape"] + found["cue_conflict_texture"] <= 100


def test_a_decision_by_texture_is_a_class_that_the_texture_goes_with() -> None:
    images = open_role("cue_conflict", lambda variant: open_shapes("test", variant))
    (source,) = images.parts.values()
    assert isinstance(source, Shapes)
    assert images.textures is not None
    textures = source.factors(torch.arange(80))["texture"]
    for image, texture in enumerate(textures.tolist()):
        going = [c for c in range(4) if int(source.class_textures[c]) == texture]
        assert images.textures[image].nonzero()[:, 0].tolist() == going
        assert int(source.labels[image]) not in going


def test_a_set_without_a_role_needs_its_folder() -> None:
    with pytest.raises(UserError, match="The set 'v2' must be a folder"):
        OutOfDistribution(PROBES[1], sets=(OodSet("v2"),)).run(
            torch.nn.Flatten(), open_shapes, EvalContext("cpu"), seed=0
        )


def test_sets_are_opened_before_a_probe_is_trained() -> None:
    class NeverAsked(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise AssertionError("an encoder was used")

    with pytest.raises(UserError, match="does not exist"):
        OutOfDistribution(PROBES[1], sets=(OodSet("sketch", "nowhere"),)).run(
            NeverAsked(), open_imagenet, EvalContext("cpu"), seed=0
        )


def open_imagenet(split: str, variant: str | None = None, data: str | None = None) -> Source:
    """Open shapes whose classes have the names of four classes of ImageNet."""
    source = open_shapes(split, variant)
    names = ["n01820546", "n02123045", "n02504458", "n07753275"]
    return Subset(source, torch.arange(len(source)), source.labels, names, "named")


@pytest.fixture
def sketches(tmp_path: Path) -> Path:
    source = open_imagenet("test", "sketch")
    for row in range(len(source)):
        name = source.class_names[int(source.labels[row])]
        path = tmp_path / name / f"{row}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(source.image(row).permute(1, 2, 0).numpy()).save(path)
    return tmp_path


def test_a_published_set_is_measured_like_the_same_images_in_memory(sketches: Path) -> None:
    encoder = ResNetRecipe("small_resnet8", width=0.5).build(rng_key=0)
    sets = (OodSet("sketch", str(sketches)), OodSet("r", str(sketches)))
    shutil.rmtree(sketches / "n02504458")  # no class of ImageNet-R
    with pytest.raises(UserError, match="n02504458 is missing"):
        OutOfDistribution(PROBES[1], sets=sets).run(
            encoder, open_imagenet, EvalContext("cpu"), seed=0
        )
    evaluation = OutOfDistribution(PROBES[1], sets=sets[1:])
    found = evaluation.run(encoder, open_imagenet, EvalContext("cpu"), seed=0)
    assert list(found) == list(evaluation.metrics) == ["clean", "r", "r_masked"]
    classifier, _ = PROBES[1].fit(encoder, open_splits(open_imagenet), EvalContext("cpu"), seed=0)
    source = open_imagenet("test", "sketch")
    features = represent(
        freeze(encoder, "cpu"), source, center(32), Representation(), EvalContext("cpu")
    )["pre_logits"]
    kept = features.labels != 2
    logits, labels = classifier(features.features)[kept], features.labels[kept]
    right = (logits.argmax(dim=1) == labels).double().mean()
    logits[:, 2] = -torch.inf
    right_masked = (logits.argmax(dim=1) == labels).double().mean()
    assert found["r"] == pytest.approx(100 * float(right))
    assert found["r_masked"] == pytest.approx(100 * float(right_masked))


@pytest.mark.parametrize("resized", [False, True])
def test_stored_images_are_resized_only_if_the_recipe_says_so(
    sketches: Path, resized: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = []

    def recording(frozen: object, source: Source, view: ViewRecipe, *rest: object) -> object:
        views.append((str(source.description["source"]).split(":")[0], view))
        return represent(frozen, source, view, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(ood, "represent", recording)
    encoder = ResNetRecipe("small_resnet8", width=0.5).build(rng_key=0)
    probe = replace(PROBES[1], view=center(24, 30))
    sets = (OodSet("sketch", str(sketches)), OodSet("stylized", str(sketches)))
    OutOfDistribution(probe, sets=sets, resize_stored=resized).run(
        encoder, open_imagenet, EvalContext("cpu"), seed=0
    )
    stored = replace(center(24, 30), resize=30 if resized else None)
    assert views == [("sketch", center(24, 30)), ("stylized", stored)]


def test_a_table_fills_in_the_folders_that_it_is_given() -> None:
    evaluation = OutOfDistribution(PROBES[1], sets=(OodSet("c"), OodSet("sketch"), OodSet("r")))
    filled = evaluation.on_data({"ood:sketch": "somewhere"})
    assert filled.sets == (OodSet("sketch", "somewhere"),)
    assert evaluation.on_data({}).sets == ()
    assert list(evaluation.on_data({}).metrics) == ["clean"]


def test_sets_are_parsed_from_words() -> None:
    assert parse_set("c=/data/c") == OodSet("c", "/data/c")
    assert parse_set("sketch") == OodSet("sketch")
    for text in ("imagenet-c=/data", "c=", ""):
        with pytest.raises(UserError, match="`--ood` must be NAME=DIR with a name of c, "):
            parse_set(text)

import pytest
import torch

from retable.encoders import ResNetRecipe
from retable.nn.memory_format import trains_channels_last

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capability", "width", "expected"),
    [("AVX2", 0.25, False), ("AVX2", 1.0, True), ("AVX512", 0.25, True), ("DEFAULT", 0.25, False)],
)
def test_tiny_networks_have_channels_first_where_their_gradients_would_leave_their_memory(
    capability: str, width: float, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    network = ResNetRecipe("small_resnet8", width=width).build(rng_key=0)
    assert trains_channels_last(network, CPU) == expected
    assert trains_channels_last(network, torch.device("cuda"))

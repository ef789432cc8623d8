"""The make-believe GPU behaves as a GPU does where the tests rely on it."""

from __future__ import annotations

from emotion_assets_tests.fake_cuda.gpu import FakeGpu


def test_host_and_device_cannot_be_mixed(gpu: FakeGpu) -> None:
    added, selected, multiplied, read = gpu("mix")
    for said in (added, selected, multiplied):
        assert said.startswith("Expected all tensors to be on the same device, but found at least two devices, cuda:0")
    assert read.startswith("can't convert cuda:0 device type tensor to numpy")


def test_transfers_are_counted_and_a_copy_to_the_host_arrives_when_it_was_waited_for(gpu: FakeGpu) -> None:
    moved = gpu("move")
    assert moved["arrived"] == [False] * 3
    assert moved["after"] == [3.0] * 3 and moved["total"] == 9.0
    assert [kind.split(" at ")[0] for kind in moved["asynchronous"]] == ["to the device", "to the host"]
    assert sorted(kind.split(" at ")[0] for kind in moved["blocking"]) == [
        *("item", "to the device, not pinned", "torch.tensor")
    ]
    assert moved["kernels"] == {"mul": 1, "add": 1, "sum": 1}

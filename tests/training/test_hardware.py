from __future__ import annotations

import pytest
import torch

from training.errors import UsageError
from training.hardware import CPU, autocast, choose_device, device_of, machine, memory_used

HERE = torch.cuda.device_count() if torch.cuda.is_available() else 0


@pytest.mark.parametrize(
    "name", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:1", "mps:0", "auto "]
)
def test_a_name_that_is_no_device_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="give auto, cpu, cuda, cuda:N or mps"):
        choose_device(name)


@pytest.mark.parametrize("name", ["cuda:99", *([] if HERE else ["cuda"])])
def test_a_gpu_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(UsageError, match=f"device {name}: PyTorch finds {HERE} CUDA GPUs here"):
        choose_device(name)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="an Apple GPU is here")
def test_an_apple_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match="device mps: PyTorch finds no Apple GPU here; give cpu"):
        choose_device("mps")


def test_auto_is_a_gpu_where_there_is_one() -> None:
    assert choose_device("auto").type == ("cuda" if HERE else "cpu")
    assert choose_device("cpu") == CPU


def test_each_process_of_several_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", 1)
    assert choose_device("cuda:0") == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UsageError, match="finds 2 CUDA GPUs"):
        choose_device("auto")


def test_what_a_device_is_in_words_and_in_memory(device: torch.device) -> None:
    module = torch.nn.Linear(2, 2).to(device)
    assert device_of(module).type == device.type
    assert machine(2, device).startswith("2 times ")
    assert (memory_used(device) > 0) == (device.type == "cuda")
    with autocast(device, enabled=False):
        assert module(torch.zeros(1, 2, device=device)).dtype == torch.float32

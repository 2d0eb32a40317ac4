"""`device=...` names what the machine has, or the error says what to set."""

import pytest
import torch

from audiotok import distributed


def test_auto_is_the_gpu_of_this_process_or_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert distributed.device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert distributed.device("auto") == torch.device("cuda:1")


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert distributed.device("cuda") == torch.device("cuda")
    with pytest.raises(ValueError, match="device=cuda:1: there are 1 GPUs here"):
        distributed.device("cuda:1")
    with pytest.raises(ValueError, match=r"device=gpu: .*set device=auto, cpu or cuda"):
        distributed.device("gpu")

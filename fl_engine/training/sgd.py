"""The only file that steps a network: plain SGD and prediction in a pinned execution profile.

Measured on torch 2.13: the same settings repeat bit for bit, but each other number of threads, kernel library or
instruction set gives other bits. So one thread, deterministic kernels, own batch order; what remains is reported by
`profile` and hashed into the member's commitment. Nothing is claimed between different profiles.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from fl_engine.errors import PolicyError, ShapeMismatch
from fl_engine.models.model import InputShape, Model
from fl_engine.models.modules import build_module
from fl_engine.params import ParamSpec

HEAD: Final = "head"
"""The name of a model's last layer, in every model of `fl_engine.models`."""
_PREDICT_BATCH: Final = 256


def pin_profile() -> None:
    """One thread and deterministic kernels, for the whole process. Call before any tensor is made."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.set_flush_denormal(False)


def profile(precision: str = "float32") -> dict[str, str | int | bool]:
    """What a member's local training of this precision ran on: flat, JSON-ready, the same in every round of a study."""
    return {
        "torch": str(torch.__version__),
        "machine": platform.machine(),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "mkldnn": bool(torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "dtype": precision,
    }


class Network:
    """A model's torch module with its weights set from, and read as, one flat float32 vector [P]: a `Trainable`.

    `precision` is what it computes in, "float32" or "float64".
    """

    def __init__(self, model: Model, input_shape: InputShape, classes: int, precision: str = "float32") -> None:
        self.spec: ParamSpec = model.layout(input_shape, classes)
        self.by_steps, self.classes = model.by_steps, classes
        self._dtype = {"float32": torch.float32, "float64": torch.float64}[precision]
        self.module: nn.Module = build_module(model.name, input_shape, classes).to(self._dtype)
        built = tuple((name, tuple(p.shape)) for name, p in self.module.named_parameters())
        if built != self.spec.tensors:
            raise ShapeMismatch(f"layout of the built {model.name}", self.spec.tensors, built)

    def _tensor(self, values: NDArray[np.float32]) -> torch.Tensor:
        """A tensor to compute with, sharing memory with float32 values where it can."""
        return torch.from_numpy(values).to(self._dtype)

    def set_weights(self, vector: NDArray[np.float32]) -> None:
        """Copy float32 [P] into the module."""
        arrays = self.spec.unflatten(vector)
        with torch.no_grad():
            for name, parameter in self.module.named_parameters():
                parameter.copy_(torch.from_numpy(np.array(arrays[name], dtype=np.float32)))

    def weights(self) -> NDArray[np.float32]:
        """The module's weights, float32 [P]."""
        vector = np.empty(self.spec.size, dtype=np.float32)
        arrays = self.spec.unflatten(vector)
        for name, parameter in self.module.named_parameters():
            arrays[name][...] = parameter.detach().numpy()
        return vector

    def train_epoch(
        self, x: NDArray[np.float32], y: NDArray[np.int64], batches: Iterable[NDArray[np.int64]], learning_rate: float
    ) -> float:
        """One pass of w <- w - learning_rate * grad of the mean cross-entropy of each batch; returns the mean loss."""
        self.module.train()
        parameters = list(self.module.parameters())
        total = 0.0
        records = 0
        for batch in batches:
            # x[batch] gathers into fresh, aligned memory: kernels choose their path by alignment.
            loss = functional.cross_entropy(self.module(self._tensor(x[batch])), torch.from_numpy(y[batch]))
            gradients = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.sub_(gradient, alpha=learning_rate)
            total += loss.item() * len(batch)
            records += len(batch)
        if records == 0:
            raise PolicyError("no records to train on")
        return total / records

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits float32 [N, classes] for x [N, ...]."""
        self.module.eval()
        parts: list[NDArray[np.float32]] = []
        with torch.no_grad():
            for start in range(0, len(x), _PREDICT_BATCH):
                block = np.array(x[start : start + _PREDICT_BATCH], dtype=np.float32)
                parts.append(np.asarray(self.module(self._tensor(block)).numpy(), dtype=np.float32))
        if not parts:
            raise PolicyError("no records to predict")
        return np.concatenate(parts)

    def features(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the head sees of each record, float32 [n, D].

        One record at a time: kernels choose their path by the size of a batch, and a record's features must not depend
        on who else is there.
        """
        with torch.no_grad():
            parts = [self.before_head(self._tensor(x[i : i + 1].copy())).numpy() for i in range(len(x))]
        return np.concatenate(parts).astype(np.float32, copy=False)

    def before_head(self, x: torch.Tensor) -> torch.Tensor:
        """The input of the last layer, [n, D]."""
        self.module.eval()
        for name, layer in self.module.named_children():
            if name == HEAD:
                return torch.flatten(x, 1)
            x = layer(x)
        raise AssertionError(f"the model has no layer named {HEAD}")

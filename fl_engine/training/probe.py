"""A network that also shows its gradients and features, for unlearning and for audits. Loaded in the worker only.

Everything here computes with the weights that are set; only `contrast` changes them.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from fl_engine.models.ridge import grid_features
from fl_engine.ring import Grid, dequantise
from fl_engine.training.ridge import Statistics
from fl_engine.training.sgd import Network

_GRADIENTS_AT_ONCE: Final = 32


class ProbedNetwork(Network):
    """A `Network` whose inside can be read: a `fl_engine.unlearning.unlearner.Probe`."""

    def gradient(
        self, x: NDArray[np.float32], y: NDArray[np.int64], batch: NDArray[np.int64]
    ) -> tuple[float, NDArray[np.float32]]:
        """Mean cross-entropy of the records at `batch` (positions) and its gradient, float32 [P]."""
        self.module.train()
        parameters = list(self.module.parameters())
        loss = functional.cross_entropy(self.module(self._tensor(x[batch])), torch.from_numpy(y[batch]))
        gradients = torch.autograd.grad(loss, parameters)
        flat = np.concatenate([g.detach().numpy().reshape(-1) for g in gradients])
        return loss.item(), flat.astype(np.float32, copy=False)

    def example_gradients(self, x: NDArray[np.float32], y: NDArray[np.int64]) -> NDArray[np.float32]:
        """The gradient of each record's own cross-entropy, float32 [n, P].

        For a ridge head, which steps towards a record's own statistics: the weights less these.
        """
        if not self.by_steps:
            z, grid = grid_features(self.features(x)), Grid()
            own = [Statistics.of(z[i : i + 1], y[i : i + 1], self.classes).mean(grid) for i in range(len(x))]
            return self.weights() - np.stack([dequantise(one, grid) for one in own])
        parameters = {name: p.detach() for name, p in self.module.named_parameters()}

        def loss(given: dict[str, torch.Tensor], one: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
            return functional.cross_entropy(functional_call(self.module, given, (one[None],)), label[None])

        parts = []
        for at in range(0, len(x), _GRADIENTS_AT_ONCE):
            block = slice(at, at + _GRADIENTS_AT_ONCE)
            found = vmap(grad(loss), in_dims=(None, 0, 0))(
                parameters, self._tensor(np.ascontiguousarray(x[block])), torch.from_numpy(y[block])
            )
            parts.append(torch.cat([found[name].reshape(len(x[block]), -1) for name in parameters], dim=1).numpy())
        return np.concatenate(parts).astype(np.float32, copy=False)

    def contrast(
        self,
        x: NDArray[np.float32],
        towards: NDArray[np.float32],
        away: NDArray[np.float32],
        temperature: float,
        learning_rate: float,
    ) -> float:
        """One step of SGD on -log softmax of (cos(z, towards), cos(z, away)) / temperature; the mean loss before it."""
        parameters = list(self.module.parameters())
        z = self.before_head(self._tensor(x.copy()))
        near = functional.cosine_similarity(z, self._tensor(towards.copy()), dim=1)
        far = functional.cosine_similarity(z, self._tensor(away.copy()), dim=1)
        choice = torch.stack([near, far], dim=1) / temperature
        loss = functional.cross_entropy(choice, torch.zeros(len(x), dtype=torch.int64))
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:  # the head has no part in it
                    parameter.sub_(gradient, alpha=learning_rate)
        return loss.item()

    def invert(
        self, change: NDArray[np.float64], label: int, steps: int, start: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """The record whose gradient points most nearly along `change` [P]: gradient inversion from `start` [1, ...].

        Geiping, Bauermeister, Droege, Moeller, *Inverting Gradients*, NeurIPS 2020: minimise 1 - cosine by Adam on the
        sign of its gradient, the record kept within -1..1 where `start` is.
        """
        wanted = torch.from_numpy((change / max(float(np.linalg.norm(change)), 1e-30)).astype(np.float32))
        record = torch.from_numpy(start.copy()).requires_grad_(True)
        labels = torch.tensor([label])
        parameters = list(self.module.parameters())
        optimiser = torch.optim.Adam([record], lr=0.05)
        for _ in range(steps):
            loss = functional.cross_entropy(self.module(record), labels)
            flat = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters, create_graph=True)])
            distance = 1 - flat @ wanted / flat.norm().clamp_min(1e-12)
            (record.grad,) = torch.autograd.grad(distance, [record])
            record.grad.sign_()
            optimiser.step()
        return record.detach().numpy().astype(np.float32)

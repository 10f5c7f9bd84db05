"""A model in shards: one network several times over in one vector, each copy trained by members of its own.

Member k belongs to shard 1 + k mod S for good, so nobody moves when somebody joins or leaves. What a member sends is an
update of its own shard's network and cannot be one of another's. The answer is everybody's: the log of the mean of what
the networks make of a record as probabilities (SISA: Bourtoule et al., *Machine Unlearning*, S&P 2021, section 4.1).
With one shard it is the network alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_engine.errors import ShapeMismatch
from fl_engine.evaluate import softmax
from fl_engine.params import Ints, ParamSpec


@dataclass(frozen=True)
class Shards:
    """How a model [S * P] is made of S networks of the layout `network`, P parameters each."""

    network: ParamSpec
    count: int = 1

    @property
    def layout(self) -> ParamSpec:
        """Of the whole model: the tensors of shard s are called `shard{s}.`, and as the network's with one shard."""
        if self.count == 1:
            return self.network
        numbers = range(1, self.count + 1)
        return ParamSpec(tuple((f"shard{s}.{name}", shape) for s in numbers for name, shape in self.network.tensors))

    @staticmethod
    def of_layout(layout: ParamSpec) -> Shards:
        """The shards of a whole model, as `layout` names them; what is named otherwise is one network."""
        own = [(name.removeprefix("shard1."), shape) for name, shape in layout.tensors if name.startswith("shard1.")]
        if not own:
            return Shards(layout)
        found = Shards(ParamSpec(tuple(own)), len(layout.tensors) // len(own))
        if found.layout != layout:
            raise ShapeMismatch("layout of a model in shards", found.layout.tensors, layout.tensors)
        return found

    def of(self, member: int) -> int:
        """The shard of a member, 1..S, by its index."""
        return shard_of(member, self.count)

    def part(self, model: NDArray[Any], shard: int) -> NDArray[Any]:
        """What a whole model [S * P] has of one shard, a view [P]."""
        if len(model) != self.count * self.network.size:
            raise ShapeMismatch("length of a model in shards", self.count * self.network.size, len(model))
        return model[(shard - 1) * self.network.size : shard * self.network.size]

    def parts(self, model: Ints) -> list[Ints]:
        """Every shard's network, views [P] in the order of the shards."""
        return [self.part(model, shard) for shard in range(1, self.count + 1)]

    def whole(self, parts: Sequence[Ints]) -> Ints:
        """The model [S * P] of these networks, in the order of the shards."""
        return parts[0] if self.count == 1 else np.concatenate(parts)


def shard_of(member: int, count: int) -> int:
    """The shard of a member of so many, 1..count, by its index."""
    return 1 + member % count


def together(answers: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """One answer of several networks' logits [N, C]: the log of their mean probabilities; one network's stays."""
    if len(answers) == 1:
        return answers[0]
    sure = np.mean([softmax(one) for one in answers], axis=0)
    answer: NDArray[np.float32] = np.log(np.maximum(sure, np.finfo(np.float32).tiny)).astype(np.float32)
    return answer

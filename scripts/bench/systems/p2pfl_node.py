"""One node of p2pfl: `p2pfl_node.py INDEX PORT`. It connects to the nodes before it; the last one starts the learning.

Settings and calls are those of p2pfl's example of a node a process (p2pfl/examples/mnist/node1.py and node2.py).
"""

import sys
import time
from typing import Any

import numpy as np
import numpy.typing as npt
from p2pfl.settings import Settings

Settings.general.DISABLE_RAY = True  # Ray is for nodes that share a process; it is started when p2pfl is imported

from datasets import Dataset  # noqa: E402
from p2pfl.learning.dataset.p2pfl_dataset import P2PFLDataset  # noqa: E402
from p2pfl.learning.frameworks.learner import Learner  # noqa: E402
from p2pfl.learning.frameworks.p2pfl_model import P2PFLModel  # noqa: E402
from p2pfl.node import Node  # noqa: E402
from p2pfl.utils.utils import set_standalone_settings  # noqa: E402
from task import TASK, Member, first_model, from_arrays, note, to_arrays  # noqa: E402


class ArraysModel(P2PFLModel):
    """A model that is a list of arrays and nothing else."""

    def get_parameters(self) -> list[npt.NDArray[np.float32]]:
        """The arrays."""
        return self.model

    def set_parameters(self, params: list[npt.NDArray[np.float32]] | bytes) -> None:
        """Take arrays, or what a peer has sent."""
        if isinstance(params, bytes):
            params, self.additional_info = self.decode_parameters(params)
        self.model = params

    def get_framework(self) -> str:
        """The name that p2pfl looks for callbacks by; FedAvg has none."""
        return "numpy"


class MemberLearner(Learner):
    """Trains a member. p2pfl asks for an evaluation when a round begins: the round before it has ended."""

    def __init__(self, member: Member) -> None:
        super().__init__()
        self._member, self._begun = member, 0

    def fit(self) -> P2PFLModel:
        """One training."""
        model = self.get_model()
        model.set_parameters(to_arrays(self._member.train(from_arrays(model.get_parameters()), self._begun)))
        model.set_contribution([self.addr], TASK["records"])
        return model

    def evaluate(self) -> dict[str, float]:
        """Note the round that has ended; no metrics."""
        if self._begun:
            note(round=self._begun, ended_at=time.time())
        self._begun += 1
        return {}

    def interrupt_fit(self) -> None:
        """Never asked for here."""

    def get_framework(self) -> str:
        """As the model's."""
        return "numpy"


def main() -> None:
    """Run until killed."""
    index, port = map(int, sys.argv[1:])
    set_standalone_settings()
    data: Any = P2PFLDataset(Dataset.from_dict({"hospital": [index]}), batch_size=TASK["batch"], dataset_name="bench")
    node = Node(
        ArraysModel(to_arrays(first_model())), data, f"127.0.0.1:{port + index}", learner=MemberLearner(Member(index))
    )
    node.start()
    for other in range(index):
        if not node.connect(f"127.0.0.1:{port + other}"):
            raise SystemExit(f"node {other} does not answer")
    note(ready=index)
    if index == TASK["members"] - 1:
        node.set_start_learning(rounds=TASK["rounds"] + 1, epochs=1, trainset_size=TASK["members"])
    while True:
        time.sleep(3600)


main()

"""Flower's side that aggregates: FedAvg over all members, no evaluation."""

import time

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from task import TASK, first_model, note, to_arrays

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train all rounds. The evaluation only notes that a round has ended; round 0 is the first model."""

    def ended(number: int, arrays: ArrayRecord) -> MetricRecord:
        note(round=number, ended_at=time.time())
        return MetricRecord({})

    members = TASK["members"]
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=members, min_available_nodes=members)
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(to_arrays(first_model())),
        num_rounds=TASK["rounds"],
        evaluate_fn=ended,
    )

"""Flower's side that trains; its SuperNode starts a process anew for every training."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from task import TASK, Member, from_arrays, to_arrays

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """One training."""
    member = Member(int(context.node_config["partition-id"]))
    given = from_arrays(message.content["arrays"].to_numpy_ndarrays())
    trained = member.train(given, int(message.content["config"]["server-round"]))
    metrics = MetricRecord({"num-examples": TASK["records"]})
    content = RecordDict({"arrays": ArrayRecord(to_arrays(trained)), "metrics": metrics})
    return Message(content=content, reply_to=message)

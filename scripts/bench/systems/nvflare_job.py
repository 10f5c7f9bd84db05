"""Start NVFlare's POC deployment (server and clients, a process each) and submit the task to it as a FedAvg job."""

from pathlib import Path

import numpy as np
from nvflare.client.config import ExchangeFormat
from nvflare.fuel.utils.constants import FrameworkType
from nvflare.recipe.fedavg import FedAvgRecipe
from nvflare.recipe.poc_env import PocEnv
from nvflare_persistor import NotingPersistor
from task import TASK, first_model

first = Path.cwd() / "first.npy"
np.save(first, first_model())
recipe = FedAvgRecipe(
    name="bench",
    min_clients=TASK["members"],
    num_rounds=TASK["rounds"],
    train_script=str(Path(__file__).with_name("nvflare_client.py")),
    framework=FrameworkType.NUMPY,
    server_expected_format=ExchangeFormat.NUMPY,
    model_persistor=NotingPersistor(source_ckpt_file_full_name=str(first)),
)
recipe.run(PocEnv(num_clients=TASK["members"]))

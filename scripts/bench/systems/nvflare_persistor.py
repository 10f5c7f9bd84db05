"""What NVFlare's server keeps models with: FedAvg has the model saved at the end of every round."""

import time

from nvflare.apis.fl_context import FLContext
from nvflare.app_common.abstract.model import ModelLearnable
from nvflare.app_common.np.np_model_persistor import NPModelPersistor
from task import note


class NotingPersistor(NPModelPersistor):
    """Notes that a round has ended when its model has been saved."""

    def save_model(self, model_learnable: ModelLearnable, fl_ctx: FLContext) -> None:
        """Save the model of the round that ends."""
        super().save_model(model_learnable, fl_ctx)
        self._ended = getattr(self, "_ended", 0) + 1  # no __init__: its arguments are what NVFlare writes into the job
        note(round=self._ended, ended_at=time.time())

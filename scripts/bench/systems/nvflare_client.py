"""NVFlare's side that trains, by its Client API: one process a site, which lives as long as the job."""

import nvflare.client as flare
from nvflare.app_common.np.constants import NPConstants
from task import TASK, Member

flare.init()
member = Member(int(flare.get_site_name().removeprefix("site-")) - 1)
while flare.is_running():
    given = flare.receive()
    trained = member.train(given.params[NPConstants.NUMPY_KEY], given.current_round + 1)
    meta = {"NUM_STEPS_CURRENT_ROUND": TASK["records"]}
    flare.send(flare.FLModel(params={NPConstants.NUMPY_KEY: trained}, meta=meta))

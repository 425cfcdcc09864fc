"""Every experiment under its name on the command line."""

from scripts.laboratory import (
    ave,
    calibration,
    capacity,
    class_size,
    cliffwalk,
    garnet,
    order_k,
    propositions,
    trajectories,
)
from scripts.laboratory.experiment import Experiment

EXPERIMENTS: dict[str, Experiment] = {
    "ave": ave.EXPERIMENT,
    "calibration": calibration.EXPERIMENT,
    "cliffwalk": cliffwalk.EXPERIMENT,
    "class-size": class_size.EXPERIMENT,
    "garnet": garnet.EXPERIMENT,
    "order-k": order_k.EXPERIMENT,
    "capacity": capacity.EXPERIMENT,
    "trajectories": trajectories.EXPERIMENT,
    "propositions": propositions.EXPERIMENT,
}

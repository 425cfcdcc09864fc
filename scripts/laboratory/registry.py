"""Every experiment under its name on the command line."""

from scripts.laboratory.experiment import Experiment

EXPERIMENTS: dict[str, Experiment] = {}

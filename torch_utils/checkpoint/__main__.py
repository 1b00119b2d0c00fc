"""python -m torch_utils.checkpoint info|verify|convert FILE: see `training.networks.tool`."""

from training.networks.tool import main

main()

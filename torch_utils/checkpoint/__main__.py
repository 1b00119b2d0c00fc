"""python -m torch_utils.checkpoint info|verify|convert FILE: see `training.network_tool`."""

from training.network_tool import main

main()

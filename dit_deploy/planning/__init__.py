"""What a model costs before it is run: tokens, operations, bytes, and the shortest time that a device allows."""

from dit_deploy.planning.costs import GraphCosts, graph_costs
from dit_deploy.planning.devices import DEVICES, Device, device_of

__all__ = ["DEVICES", "Device", "GraphCosts", "device_of", "graph_costs"]

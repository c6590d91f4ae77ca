"""What a model costs before it is run: tokens, operations, bytes, and the shortest time that a device allows."""

from dit_deploy.planning.architectures import ARCHITECTURES, architecture_costs, find_architecture
from dit_deploy.planning.costs import GraphCosts, graph_costs
from dit_deploy.planning.devices import DEVICES, Device, device_of
from dit_deploy.planning.plan import ComponentPlan, Plan, plan_architecture, plan_bundle

__all__ = [
    "ARCHITECTURES",
    "DEVICES",
    "ComponentPlan",
    "Device",
    "GraphCosts",
    "Plan",
    "architecture_costs",
    "device_of",
    "find_architecture",
    "graph_costs",
    "plan_architecture",
    "plan_bundle",
]

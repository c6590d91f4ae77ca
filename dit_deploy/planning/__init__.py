"""What a model costs before it is run: tokens, operations, bytes, the shortest time that a device allows, and GPUs."""

from dit_deploy.planning.architectures import ARCHITECTURES, find_architecture
from dit_deploy.planning.bundled import plan_bundle
from dit_deploy.planning.costs import GraphCosts, graph_costs
from dit_deploy.planning.devices import DEVICES, Device, device_of
from dit_deploy.planning.formulas import architecture_costs, transformer_costs
from dit_deploy.planning.grids import Grid, Video, patch_grid
from dit_deploy.planning.plan import Comparison, ComponentPlan, Plan, Run
from dit_deploy.planning.published import plan_architecture
from dit_deploy.planning.sharding import Gpus, gpus_needed

__all__ = [
    "ARCHITECTURES",
    "DEVICES",
    "Comparison",
    "ComponentPlan",
    "Device",
    "Gpus",
    "GraphCosts",
    "Grid",
    "Plan",
    "Run",
    "Video",
    "architecture_costs",
    "device_of",
    "find_architecture",
    "gpus_needed",
    "graph_costs",
    "patch_grid",
    "plan_architecture",
    "plan_bundle",
    "transformer_costs",
]

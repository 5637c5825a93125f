"""Importing this declares what the torchvision wheel registers in its compiled part, which does not load beside a CPU
build of torch: without it timm cannot be imported there.
"""

import torch

OPERATORS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
LIBRARY = torch.library.Library("torchvision", "FRAGMENT")  # it takes its operators with it when it is collected
for _name, _schema in OPERATORS.items():
    if not hasattr(torch.ops.torchvision, _name):
        LIBRARY.define(_schema)

"""Object detection and instance segmentation with a pretrained encoder: Faster and Mask R-CNN.

The networks are assembled from torchvision's parts and have the losses, anchors and schedules of
Detectron2, in which the papers ran their detectors.
"""

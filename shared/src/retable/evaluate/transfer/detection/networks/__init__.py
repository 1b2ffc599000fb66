"""Networks that detect, assembled from torchvision's parts; importing them imports torchvision."""

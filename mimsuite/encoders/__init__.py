"""ViT, CvT and BiT: a config file and a network file each."""

"""Other ways to pre-train the same ViT, to be compared with masked autoencoding: a file a method."""

"""Where things are: a plain ViT as a backbone of maps, heads that outline and box what it sees, and what judges them."""

"""Where things are: a plain ViT as a backbone of maps, and heads that outline and box what it sees."""

"""`openmae predict`: what a fine-tuned model says of images that nobody has labelled."""

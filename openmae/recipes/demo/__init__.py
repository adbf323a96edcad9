"""openmae demo: what a model makes of images, on a page of this machine."""

"""`openmae segment`: a class for every pixel."""

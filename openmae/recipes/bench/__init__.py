"""`openmae bench`: how fast a training step is here, beside other implementations."""

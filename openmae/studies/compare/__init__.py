"""`openmae compare`: which way to pre-train is best on these images."""

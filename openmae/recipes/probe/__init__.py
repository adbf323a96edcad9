"""`openmae knn` and `openmae probe`: what frozen features know."""

"""`openmae launch`: a training handed to a cluster's scheduler."""

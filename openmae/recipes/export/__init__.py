"""`openmae export`: the model for other software, checked against ours."""

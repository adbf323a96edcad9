"""The job that trains another method's encoder, to be compared with that of `pretrain`."""

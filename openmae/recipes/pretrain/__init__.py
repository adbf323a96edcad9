"""`openmae pretrain`: the main job."""

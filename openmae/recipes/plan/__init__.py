"""`openmae plan`: steps, hours, memory and cost of a pre-training before it starts."""

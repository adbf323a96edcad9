"""Which process this is of those that train together, and what they tell each other."""

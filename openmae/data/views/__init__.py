"""Pixels -> what the model sees: crops, augmentation, statistics."""

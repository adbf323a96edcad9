"""`openmae ablate`: which setting is best on these images?"""

"""`openmae adapt`: is going on from these weights worth it?"""

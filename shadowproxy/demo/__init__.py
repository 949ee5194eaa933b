"""The models, the faults and the scenarios of `shadowproxy demo`."""

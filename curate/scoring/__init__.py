"""One process: samples in, scored rows out. No Ray."""

"""Hidden states edited along features' directions while the model answers."""

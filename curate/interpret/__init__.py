"""Looking inside: what features see in samples and images, and what they do to answers. No Ray."""

"""curate: rank multimodal preference data by what a sparse autoencoder sees in it."""

__version__ = "0.1.0"

"""Documents in, hidden states out: what dictionaries are trained and judged on."""
